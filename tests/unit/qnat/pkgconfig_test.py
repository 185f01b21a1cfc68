"""Installs libqlora into a temporary tree, builds an outside program against it with pkg-config alone and runs it; the
symbols exported must be the header's and no others.  Arguments: build directory, source directory."""
import os
import re
import subprocess
import sys
import tempfile

build, source = sys.argv[1:3]
env = dict(os.environ)


def run(*args, **kw):
    return subprocess.run(args, check=True, env=env, stdout=subprocess.PIPE, text=True, **kw).stdout


with tempfile.TemporaryDirectory() as root:
    env['DESTDIR'] = root
    run('meson', 'install', '-C', build, '--no-rebuild', '--tags', 'libqlora,devel')
    del env['DESTDIR']
    pc = [d for d, _, files in os.walk(root) if 'qlorad.pc' in files]
    assert len(pc) == 1, pc
    env['PKG_CONFIG_LIBDIR'] = pc[0]
    env['PKG_CONFIG_SYSROOT_DIR'] = root
    flags = run('pkg-config', '--cflags', '--libs', 'qlorad').split()
    assert not any('/core' in f for f in flags), flags
    lib = os.path.dirname(pc[0])
    env['LD_LIBRARY_PATH'] = lib
    for name in ('layer', 'export', 'inspect'):
        exe = os.path.join(root, name)
        run('cc', '-std=c99', '-Wall', '-Wextra', '-Werror', '-pedantic', '-o', exe, f'{source}/examples/{name}.c', *flags, '-lm')
        run(exe, *(['example.gguf', 'example.qnat', 'example.safetensors'] if name == 'inspect' else []), cwd=root)
    header = open(f'{source}/include/qlorad/qlorad.h').read()
    promised = set(re.findall(r'^QL_API\b[^;]*?\b(qlora_\w+)\(', header, re.M))
    symbols = run('nm', '-D', '--defined-only', os.path.join(lib, 'libqlora.so'))
    exported = {line.split()[2].split('@')[0] for line in symbols.splitlines() if line.split()[1] != 'A'}
    assert promised == exported, (promised - exported, exported - promised)
    assert 'libqlora.so.1' in run('readelf', '-d', os.path.join(lib, 'libqlora.so'))
print(f'{len(promised)} symbols, 2 programs')
