"""Small templates that together use every construct of the subset; each is rendered by jinja2 and by us."""

# expressions, each rendered as {{ expression }}
EXPRESSIONS = r"""
none
true
1.0
1e20
0.1+0.2
7//2
7/2
-7//2
-7%3
7%-3
7.5%2
-7.5//2
2**10
2**-1
2**0.5
2**3**2
-2**2
1_000
0x1F
0b101
0o17
1e-5
1e16
1e15
123456789.123
1.5e300
5.684341886080802e-14
9007199254740993.0
[1,'a',none]
{'a':1}
(1,)
()
(1, 2)
[]
{}
['it\'s', "say \"x\"", 'both \' "', 'tab\t', 'nl\n', 'é', '\x00', '\x7f', '\u200b', '😀', '\\']
'a' 'b' "c"
'\u00e9\x41\101\n'
'\q'
undefined_thing
undefined_thing is defined
undefined_thing is undefined
undefined_thing or 'x'
undefined_thing and 'x'
not undefined_thing
'a' in undefined_thing
undefined_thing == undefined_thing
undefined_thing == none
undefined_thing.x
undefined_thing['x']
undefined_thing()
undefined_thing + 1
undefined_thing ~ 'x'
undefined_thing | length
undefined_thing | list
undefined_thing | default('d')
undefined_thing | join(',')
undefined_thing | first is defined
undefined_thing | int
undefined_thing | string
undefined_thing | tojson
undefined_thing | trim
undefined_thing | items | list
undefined_thing is iterable
undefined_thing is sequence
undefined_thing is string
undefined_thing is none
undefined_thing < 1
1 < undefined_thing
[undefined_thing]
-undefined_thing
undefined_thing[1:]
undefined_thing is callable
none.x
none['x']
none.x.y
none.x is defined
none | default('d')
none | default('d', true)
'' | default('d')
'' | default('d', true)
0 | d('z', true)
d.missing
d.missing.x
d['missing'] is defined
d.get('q')
d.get('q', 5)
d.get('name')
d.items()
d.items() | list
d['items']
d.keys()
d.values() | list
d.keys() | length
d.name
d['name']
d.nested.deep[0]
d.nested['deep'][-1]
d.nested.deep[5]
d.update({'a':1})
d.update
d.update is defined
d.pop
lst.append(1)
lst.append
lst.copy()
lst.count(2)
lst.index(3)
lst.index(99)
lst.0
lst[0]
lst[-1]
lst[10]
lst[10] is defined
lst['x']
lst.x
lst[1:]
lst[:2]
lst[::-1]
lst[::2]
lst[5:1:-2]
lst[-2:]
lst[:-1]
lst[100:]
lst[::0]
'héllo'[1]
'héllo'[1:3]
'héllo'[::-1]
'héllo'[-1]
'héllo'[10]
'héllo' | length
'日本語テキスト' | length
'日本語テキスト'[2:5]
s.__class__
s.__class__.__mro__
s['__class__']
s._x
d._x
d.__len__
'a' + 1
'a' ~ 1 ~ none
'a' * 3
3 * 'ab'
[1] * 2
[1] + [2]
[1] + (2,)
(1,) + (2,)
'a' - 'b'
1 + none
true + 1
true + true
1 == true
1 == 1.0
'a' == 'a'
[1] == [1]
[1] == (1,)
{'a':1} == {'a':1.0}
1 < 2 < 3
1 < 2 > 5
1 < 'a'
'a' < 'b'
[1,2] < [1,3]
[1,'a'] < [1,2]
(1,2) <= (1,2,3)
none < 1
1 in [1,2]
'x' in 'xyz'
1 in 'xyz'
'k' in d
'name' in d
3 not in lst
1 in none
1 in 5
none in [none]
not 1 in [1]
1 and 2
0 or 'x'
1 or 2
'' and 1
'a' if true
'a' if false
'a' if false else 'b'
('a' if false) is defined
'a' if x1 is defined else 'b' if x2 is defined else 'c'
1 if 0 else 2 if 0 else 3
lst is iterable
lst is sequence
d is mapping
d is sequence
d is iterable
s is string
s is iterable
s is sequence
5 is number
5.0 is number
true is number
true is integer
5 is integer
5.0 is integer
5.0 is float
true is boolean
true is true
1 is true
false is false
none is none
none is not none
5 is odd
4 is even
5 is divisibleby 5
5 is divisibleby(2)
5 is eq 5
5 is equalto 6
5 is ne 6
5 is gt 3
5 is lessthan 3
5 is in [5]
5 is in([5])
5 is not in [5]
'a' is in 'abc'
'ABC' is upper
'abc' is lower
'a1' is lower
'1' is upper
d.get is callable
s is callable
s is escaped
s|safe is escaped
'tojson' is filter
'nope' is filter
'defined' is test
1 is sameas 1
none is sameas none
'x' is nosuchtest
5 is mapping
range(3)
range(1,10,3)
range(5) | list
range(5,0,-2) | list
range(3)[1]
range(10)[2:5]
range(3) | length
range(0)
range(1000000)
range('a')
dict(a=1)
dict({'a':1}, b=2)
dict([('a',1)])
namespace(a=1).a
namespace(a=1).b is defined
namespace(a=1)
namespace(a=1)['a']
namespace(_a=1)
namespace({'x': 3}).x
raise_exception('boom <x>')
raise_exception('a' ~ 5)
strftime_now('%Y-%m-%d')
strftime_now('%d %b %Y %H:%M')
strftime_now('%B %-d, %Y %f%z%Z|%%')
'  x '|trim
'xxaxx'|trim('x')
5|trim
none|trim
'a,b'.split(',')
' a  b '.split()
'a,b,c'.split(',', 1)
'a,b,c'.rsplit(',', 1)
' a  b c '.split(none, 1)
' a  b c '.rsplit(none, 1)
''.split()
''.split(',')
'abc'.split('')
'<think>x</think>y'.split('</think>')[-1]
'a\nb'.split('\n')
' x '.strip()
'xxaxx'.strip('x')
'xyax'.lstrip('xy')
'axyx'.rstrip('xy')
' \u00a0x\u2003'.strip()
'abc'.startswith('ab')
'abc'.startswith(('x','a'))
'abc'.endswith('bc')
'abc'.endswith('')
'abc'.startswith('bc', 1)
'abc'.startswith(1)
'aXbX'.replace('X','-')
'aXbX'.replace('X','-',1)
'abc'.replace('','-')
'abc'.replace('','-',2)
''.replace('','x')
'Straße'.upper()
'ǆ ﬁ ŉ'.upper()
'ÀÉ İ ΑΣ ΑΣΑ Σ'.lower()
'hello wORLD'.title()
"they're bill's".title()
'hELLO'.capitalize()
'ǆabc'.capitalize()
'abcabc'.find('c')
'éabc'.find('c')
'abc'.find('x')
'abcabc'.rfind('c')
'abc'.index('x')
'aaa'.count('a')
'aaa'.count('aa')
'aaa'.count('')
','.join(['a','b'])
','.join(['a',1])
','.join('abc')
','.join(5)
'{} {}'.format(1,'a')
'{1} {0}'.format(1,'a')
'{a} {b.x} {c[0]} {c[k]}'.format(a=1, b={'x': 5}, c={'k': 1, 0: 2})
'{:>5}|{:<5}|{:^5}|{:05d}|{:.2f}|{:,}|{:x}|{!r}'.format('a','b','c',42,3.14159,1234567,255,'q')
'{{}}'.format()
'{}'.format()
'{'.format()
'%s and %s' % ('a', 1)
'%d %5d %-5d| %05d %x %o %e %g %.3f %r %%' % (1,2,3,4,255,8,1.5,0.0001,2.5,'x')
'%s' % 'x'
'%s' % [1]
'%s' % {'a': 1}
'%(a)s-%(b)d' % {'a': 1, 'b': 2}
'%s %s' % ('a',)
'%s' % ('a','b')
'abc' % 1
'%d' % 'x'
'%c%c' % ('a', 66)
'%s'|format('x')
'%s %d'|format('x', 5)
'%(x)s'|format(x=1)
'abc'.partition('b')
'abc'.rpartition('z')
'a\nb\r\nc\x0bd'.splitlines()
'abc'.removeprefix('a')
'abc'.removesuffix('c')
'12'.isdigit()
''.isdigit()
'1a'.isalnum()
' '.isspace()
'abc'.center(8, '*')
'abc'.center(7, '*')
'ab'.center(7, '*')
'abc'.ljust(6) ~ '|'
'abc'.nosuch()
'abc'.nosuch
d|tojson
[1, 'é', none, true, 1.5, 1e100]|tojson
{'a': [1, 'é'], 'b': none}|tojson
{'a': [1, {'x': 2}], 'b': {}, 'c': []}|tojson(indent=2)
{'a': 1}|tojson(indent=4)
{'a': 1}|tojson(indent='\t')
{'b': 1, 'a': 2}|tojson(sort_keys=true)
{'b': 1, 'a': [1,2]}|tojson(separators=(',', ':'))
{'b': 1, 'a': [1,2]}|tojson(indent=2, separators=(',', ':'))
'é😀<&\'">\u2028\x7f\n\t\r\x08\x0c\x01\\/'|tojson
'é😀\u2028\x7f'|tojson(ensure_ascii=true)
{1: 2, 1.5: 3, true: 4, none: 5}|tojson
{(1,2): 3}|tojson
(1,2)|tojson
range(3)|tojson
d.items()|tojson
s|safe|tojson
d|length
5|length
lst|first
[]|first
[]|first is defined
lst|last
'abc'|last
{}|last
d|first
d|list
'abc'|list
5|list
lst|map('string')|join('-')
lst|map('nosuch')|list
msgs|map(attribute='role')|list
msgs|map(attribute='nope')|list
msgs|map(attribute='nope', default='q')|list
msgs|map(attribute='role')
none|map('upper')|list
msgs|selectattr('role','equalto','user')|list|length
msgs|selectattr('role','==','user')|map(attribute='content')|join('/')
msgs|selectattr('role')|list|length
msgs|rejectattr('role','eq','user')|map(attribute='content')|list
msgs|selectattr('tools','defined')|list|length
msgs|selectattr('role', 'in', ['user','system'])|list|length
msgs|selectattr('a.b')|list
msgs|selectattr()|list
(msgs|selectattr('role','eq','none')) is defined
'yes' if msgs|selectattr('role','eq','nobody') else 'no'
msgs|selectattr('role','eq','user')|length
[1,2,3,4]|select('odd')|list
[1,2,3,4]|reject('odd')|list
[0,1,'',none,'a']|select|list
[1,2,3]|select('gt', 1)|list
[1,2,3]|select('nosuch')|list
[3,1,2]|sort
['b','A','c']|sort
['b','A','c']|sort(case_sensitive=true)
[3,1,2]|sort(reverse=true)
['b','A','a','B']|sort(true)
msgs|sort(attribute='content')|map(attribute='content')|list
msgs|sort(attribute='role,content')|map(attribute='content')|list
[1,'a']|sort
[{'a':1},{'a':2}]|sort
d|dictsort
{'b':1,'A':2}|dictsort
{'b':1,'A':2}|dictsort(true)
{'b':1,'A':2}|dictsort(false,'value')
{'b':1,'A':2}|dictsort(reverse=true)
lst|dictsort
['a','A','b']|unique|list
['a','A','b']|unique(true)|list
[1,1.0,true,2]|unique|list
[[1],[2]]|unique|list
[3,1,2]|min
[3,1,2]|max
[]|max is defined
[1,2,3]|sum
[[1],[2]]|sum(start=[])
msgs|sum(attribute='n')
[1,2,3]|join
[1,none,'a']|join('|')
msgs|join(', ', attribute='role')
'abc'|join('-')
d|join('-')
5|join
[1,2,3]|reverse|list
'abc'|reverse
d|reverse|list
5|reverse
d|items|list
5|items|list
'ab cd-ef (gh) <ij'|title
'HELLO wORLD'|capitalize
'abc'|upper
'ABC'|lower
5|upper
'a.b.c'|replace('.', '-')
'a.b.c'|replace('.', '-', 1)
5|replace(5, 6)
'a\nb\n\nc'|indent
'a\nb\n\nc'|indent(2, true)
'a\nb\n\nc'|indent(2, blank=true)
'a\nb'|indent('>>')
5|indent
'42'|int
'42.7'|int
'x'|int
'x'|int(7)
'0x1f'|int(base=16)
'1f'|int(0, 16)
' 12 '|int
'1_0'|int
42.9|int
-42.9|int
none|int
[]|int(3)
true|int
'3.5'|float
'x'|float
'inf'|float
none|float(1)
3|float
'1e3'|float
42.55|round
42.55|round(1)
2.5|round
3.5|round
2.675|round(2)
42.4|round(0,'ceil')
42.45|round(1,'floor')
5|round
'x'|round
1234.5|round(-2)
-5|abs
-5.5|abs
'x'|abs
('<a>'|safe) + '<b>'
'<b>' + ('<a>'|safe)
('<a>'|safe) ~ '<b>'
'<a>'|safe
['<a>'|safe]
('<a>'|safe).upper() + '<b>'
('<%s>'|safe) % '<b>'
('{}'|safe).format('<b>')
('<a>'|safe).join(['<b>'])
('<a>'|safe)|replace('a', '<') + '<'
('<a>'|safe)|string + '<b>'
('<a>'|safe)[1:] + '<'
('<a>'|safe)|trim + '<'
'<&">'|escape
'<&">'|e ~ '<'
'<'|e|forceescape
[1,2,3,4,5]|batch(2)|list
[1,2,3,4,5]|batch(2,'x')|list
'foo bar baz qux'|truncate(9)
'foo bar baz qux'|truncate(9, true)
'foo bar baz qux'|truncate(11)
'foo bar baz qux'|truncate(11, false, '...', 0)
s|nosuchfilter
5|string ~ 6
-lst|length
-5|abs
--5
+5
-'a'
not true
not not 1
(1, 2, 3)[1]
{'a': {'b': 1}}.a.b
{1: 'x'}[1]
{'1': 'x'}[1]
{[1]: 2}
{'a': 1, 'a': 2}
[1, 2,]
{'a': 1,}
(1, 2,)
[[1, 2], [3]]|map('first')|list
[[1, 2], [3]]|map('length')|list
['a', 'b']|map('upper')|join
['a', 'b']|map('replace', 'a', 'x')|join
[{'a': {'b': 1}}]|map(attribute='a.b')|list
[[5, 6]]|map(attribute=1)|list
[[5, 6]]|map(attribute='1')|list
(5).nosuch is defined
'x'.upper is defined
'' is sequence
x.y.z
1/0
1//0
1%0
1.0/0
2**70
9223372036854775807 + 1
'a' if 1 else
foo(
1 +
[1, 2
{'a'}
'abc
a b
lst | length > 2
'a' ~ 'b' == 'ab'
1 + 2 * 3
(1 + 2) * 3
10 - 2 - 3
2 * 3 % 4
lst[1] ~ lst[2] ~ d.name
[1,2,3][1:][0]
'x' 'y' | upper
not lst
lst and d
1 if lst is defined and lst|length > 1 else 0
lst is defined and lst
s.split(' ')[0].upper()
s|upper|lower|title|length
d.items()|list|length
'%s' % undefined_thing
[1,2] is eq([1,2])
loop
self
caller
cycler
varargs
lst[none]
lst[1.0]
lst[true]
'abc'[true]
d[[1]]
d[none]
d[1]
'5' * '5'
{} is mapping
[] is sequence
1.0|string
100000000000000000000.0
1e22
1.0e-7
-0.0
0.0
3.0 // 2
7 // 2.0
-7 // 2.0
5 % 3.0
1e308 * 10
'inf'|float
-('inf'|float)
'nan'|float
"nl\
cont"
lst|sum / lst|length
'a' < 1
{'a':1} < {'b':2}
{'a': 1}.items() == {'a': 1}.items()
lst == lst|list
'é' == '\u00e9'
'ß'|upper
d is eq d
"a" "b" ~ "c"
''|first is defined
[none, 1]|first
(lst|length)|string + 'x'
lst|join(d='-')
lst|tojson(indent=none)
0 is false
'' is none
'abc' is in ['abc', 'd']
'A' 'b'|lower
1 is number and 2 is number
[1, [2, [3]]]|string
{'x': [1, {'y': 'z\'s'}]}|string
(1, 'a')|string
"it's"|list
d.name.upper().lower().title()
msgs[0].content
msgs[0]['content']
msgs[-1].role
msgs[0].nope
msgs[0].nope is none
msgs[5].role
msgs[0].content.split('\n')|first
msgs|length
msgs|list|last|tojson
msgs[1:]|map(attribute='role')|list
msgs[::-1]|map(attribute='role')|list
msgs[0] | tojson
msgs[0].items()|list
msgs[0] is mapping
msgs[0].content is string and msgs[0].content
""".strip("\n").split("\n")

# whole templates
TEMPLATES = [
    "a\n", "a\n\n", "a\r\nb\r", "\n", "", " {% if true %}x{% endif %}\n y",
    "{% if true %}\nx\n{% endif %}\ny", "  {% if true %}\n  x\n  {% endif %}\n", "a {% if true %}b{% endif %} c",
    "a\n  {%- if true -%}  \n b \n{%- endif %}\n c", "{{ 1 }}\n{{ 2 }}", "{{- 1 -}} \n {{- 2 -}} \n x", "{{-7}}", "{{ -7 }}",
    "{#- c -#} x", "a {# c #}\nb", "  {# c #}\nb", "a\n {#- c #}\nb", "{%+ if true %}x{% endif +%}\ny", "  {%+ if true %}x{% endif %}",
    "{% raw %}{{ x }}{% endraw %}", "a {% raw %} {% x %} {% endraw %}\nb", "{%- raw -%}  x  {%- endraw -%}  y", "{% raw %}\nx{% endraw %}",
    "{% raw %}", "{% raw %}{% endraw", "{# x", "{{ 1", "{% if", "{% if true %}", "{% endif %}", "{% nosuch %}", "{% for x in %}{% endfor %}",
    "{{ }}", "{% %}", "{{ 1 }} }}", "{ { % }", "{{ '}}' }}", "{{ {'a': {'b': 1}} }}", "{{ {'a':{'b':{}}}}}", "{{ (1 }}", "{{ ) }}", "{{ [1) }}",
    "{% set x = 1 %}{{ x }}", "{% set x, y = 1, 2 %}{{ x }}{{ y }}", "{% set x = 1, 2 %}{{ x }}", "{% set x, y = 1 %}", "{% set x, y = [1,2,3] %}",
    "{% set (a, b), c = (1, 2), 3 %}{{ a }}{{ b }}{{ c }}", "{% set 1 = 2 %}", "{% set true = 2 %}", "{% set x.y = 1 %}",
    "{% set ns = namespace(x=1) %}{% set ns.x = 5 %}{{ ns.x }}", "{% set ns = namespace() %}{% set ns.x, ns.y = 1, 2 %}{{ ns.x }}{{ ns.y }}",
    "{% set ns = namespace() %}{% set ns._x = 1 %}", "{% set d = {} %}{% set d.x = 1 %}",
    "{% set x %}a{{ 1 }}b{% endset %}[{{ x }}]", "{% set x | upper | replace('A','z') %}a{{ 1 }}b{% endset %}[{{ x }}]",
    "{% set x = 0 %}{% for i in [1,2] %}{% set x = i %}{{ x }}{% endfor %}{{ x }}",
    "{% set x = 0 %}{% for i in [1,2,3] %}{{ x }}{% set x = x + i %}{{ x }} {% endfor %}{{ x }}",
    "{% set ns = namespace(n=0) %}{% for i in [1,2] %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}",
    "{% if true %}{% set x = 1 %}{% endif %}{{ x }}", "{% if false %}{% set s = 1 %}{% endif %}{{ s }}",
    "{% for i in [1,2] %}{% if loop.first %}{% set s = 'in' %}{% endif %}{{ s }}{% endfor %}{{ s }}",
    "{% for i in lst %}{{ loop.index }}/{{ loop.index0 }}/{{ loop.revindex }}/{{ loop.revindex0 }}/{{ loop.first }}/{{ loop.last }}/{{ loop.length }} {% endfor %}",
    "{% for i in lst %}{{ loop.previtem }}<{{ i }}>{{ loop.nextitem }} {% endfor %}",
    "{% for i in lst %}{{ loop.previtem is defined }}{{ loop.nextitem is defined }} {% endfor %}",
    "{% for i in lst %}{{ loop.cycle('a','b') }}{{ loop.changed(i // 2) }}{{ loop.depth }}{{ loop.depth0 }} {% endfor %}",
    "{% for i in lst if i is odd %}{{ loop.index }}:{{ i }}:{{ loop.length }}:{{ loop.last }} {% endfor %}",
    "{% for i in lst if i > 100 %}x{% else %}none{% endfor %}", "{% for i in [] %}x{% else %}none{% endfor %}",
    "{% for i in lst %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 4 %}{% break %}{% endif %}{{ i }}{% else %}e{% endfor %}",
    "{% for i in lst %}{% for j in lst %}{% if j > i %}{% break %}{% endif %}{{ loop.index }}{% endfor %}|{{ loop.index }}{% endfor %}",
    "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}", "{% for k in d %}{{ k }};{% endfor %}", "{% for k, v in d %}{% endfor %}",
    "{% for k, v in d|items %}{{ loop.index }}{{ k }}={{ v }};{% endfor %}", "{% for c in 'héy' %}[{{ c }}]{% endfor %}",
    "{% for x in undefined_thing %}x{% else %}u{% endfor %}", "{% for x in none %}{% endfor %}", "{% for x in 5 %}{% endfor %}",
    "{% for x in range(3) %}{{ x }}{{ loop.last }}{% endfor %}", "{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}",
    "{% for x in lst|reverse %}{{ x }}{{ loop.length }}{% endfor %}", "{% for x in lst|map('string') %}{{ x }}{{ loop.revindex }}{% endfor %}",
    "{% for x in lst|select('odd') %}{{ loop.index }}{{ loop.last }}{{ loop.length }}{{ x }} {% endfor %}",
    "{% for x in (1, 2) %}{{ x }}{% endfor %}", "{% for x in 1, 2 %}{{ x }}{% endfor %}", "{% for x in [1] recursive %}{% endfor %}",
    "{% for loop in [1] %}{{ loop.index }}{% endfor %}", "{% for x in [1] %}{% set loop = 2 %}{{ loop.index }}{% endfor %}", "{% break %}",
    "{% set loop = 5 %}{{ loop }}", "{% for x in [1,2] %}{{ loop }}{% endfor %}",
    "{% for x in [1,2] %}{% for y in [1] %}{{ loop.index }}{% endfor %}{{ loop.index }}{% endfor %}",
    "{% for x in [[1,2],[3]] %}{% set outer = loop %}{% for y in x %}{{ outer.index }}{{ loop.index }} {% endfor %}{% endfor %}",
    "{% for x in lst %}{% set y = x %}{% endfor %}{{ y is defined }}", "{% for x in lst %}{% endfor %}{{ x is defined }}",
    "{% if 0 %}a{% elif 1 %}b{% else %}c{% endif %}", "{% if 0 %}a{% elif 0 %}b{% else %}c{% endif %}", "{% if 1: %}x{% endif %}",
    "{% if lst and d is mapping and not none %}y{% endif %}", "{% if s|nosuch %}{% endif %}", "{% if false %}{{ s|nosuch }}{% endif %}ok",
    "{{ s|nosuch if false else 'ok' }}", "{% if false %}{% for x in lst %}{{ x|nosuch }}{% endfor %}{% endif %}", "{{ s is nosuch }}",
    "{% if false %}{{ s is nosuch }}{% endif %}ok",
    "{% macro m(a, b=2) %}[{{ a }},{{ b }}]{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(a=5) }}{{ m() }}{{ m(b=1, a=2) }}",
    "{% macro m(a, b=a) %}[{{ a }},{{ b }}]{% endmacro %}{{ m(1) }}{{ m() }}", "{% macro m() %}x{% endmacro %}{{ m(1) }}",
    "{% macro m() %}x{% endmacro %}{{ m(q=1) }}", "{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, a=3) }}",
    "{% macro m(a) %}{{ x }}{% endmacro %}{% set x = 1 %}{{ m(1) }}", "{{ m(1) }}{% macro m(a) %}{{ a }}{% endmacro %}",
    "{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(5) }}",
    "{% macro m() %}{% set q = 1 %}{{ q }}{% endmacro %}{{ m() }}{{ q is defined }}", "{% macro m(a, a2) %}{% endmacro %}{{ m.name }}{{ m }}x",
    "{% for i in lst %}{% macro m() %}{{ i }}{% endmacro %}{{ m() }}{% endfor %}", "{% macro m(x) %}{{ x }}{% endmacro %}{{ m(m('a') ~ 'b') }}",
    "{% macro m(x) %}{{ x|default('dd') }}{% endmacro %}{{ m() }}{{ m(none) }}", "{% macro m(x) %}{{ x.y }}{% endmacro %}{{ m() }}",
    "{% set m2 = 5 %}{% macro m2() %}x{% endmacro %}{{ m2() }}", "{% macro m(a, b=1, c) %}{% endmacro %}",
    "{% macro m(*a) %}{% endmacro %}", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(*[1]) }}{{ m(**{'a': 2}) }}{{ m(*[1], **{'b': 2}) }}",
    "{{ dict(**{'a': 1}) }}{{ '{} {}'.format(*[1, 2]) }}{{ range(*[1, 3])|list }}",
    "{% filter upper %}a{{ s }}{% endfilter %}", "{% filter replace('a', 'b')|upper %}aa{% endfilter %}", "{% filter nosuch %}{% endfilter %}",
    "{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}{{ a is defined }}", "{% with %}x{% endwith %}", "{% with x = 1 %}{% set y = 2 %}{% endwith %}{{ y is defined }}",
    "{% set x = 1 %}{% with x = 2, y = x %}{{ x }}{{ y }}{% endwith %}{{ x }}",
    "{% generation %}{{ s }}{% endgeneration %}x", "a{% generation %}{% set q = 1 %}{{ q }}{% endgeneration %}{{ q is defined }}",
    "{% for m in msgs %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}\n{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}",
    "{% generation %}", "{% print 1 %}", "{% print 1, 2 %}", "{% do 1 %}", "{{ 'a' }}{{ none }}{{ undefined_thing }}{{ [] }}",
    "{{ raise_exception('no') if false else 'y' }}", "{% if true %}{{ raise_exception('User roles must alternate user/assistant/…') }}{% endif %}",
    "{%- for message in msgs -%}\n  {{- '<|im_start|>' + message['role'] + '\\n' -}}\n  {{- message.content -}}\n  {{- '<|im_end|>\\n' -}}\n{%- endfor -%}\n",
    "{% set x = namespace(v=[]) %}{% set x.v = x.v + [1] %}{% set x.v = x.v + [2] %}{{ x.v }}",
    "{% set a = [] %}{% for i in lst %}{% set a = a + [i] %}{% endfor %}{{ a }}",
    "{% for i in lst %}{% if loop.index0 > 0 %}, {% endif %}{{ i }}{% endfor %}", "{{ loop is defined }}", "{% set messages = msgs[1:] %}{{ messages|length }}",
    "{% if msgs[0]['role'] == 'system' %}{% set sys = msgs[0]['content'] %}{% set loop_messages = msgs[1:] %}{% else %}{% set loop_messages = msgs %}{% endif %}{{ sys }}{{ loop_messages|length }}",
    "{% set x = 'a' %}{% set x = x ~ 'b' %}{% set y = x ~ 'c' %}{{ x }}{{ y }}{% set z = x ~ 'd' %}{{ y }}{{ z }}",
    "{{ 'a' ~ ('b' ~ ('c' ~ 'd')) ~ 'e' }}", "{% set a = 'x' + 'y' %}{% set b = a + '1' %}{% set c = a + '2' %}{{ a }}{{ b }}{{ c }}",
    "line1\n{% if true %}\n\n  two\n{% endif %}\n\nthree\n", "{%- if true %} a {%- endif %} b", "{{ 'a' -}}\n\n b", "x\n\n{{- 'a' }}", "\t{% if 1 %}\t{% endif %}\t",
    "a{% if 1 %}\n\n\nb{% endif %}", "a\n   {% if 1 %}\n   {% endif %}   \nb", "   {{ 1 }}", "a\n   {{ 1 }}\n   b", "{% if 1 %}  {{ 1 }}  {% endif %}",
    "{% for i in lst %}  \n  {{ i }}\n{% endfor %}", "{% for i in lst -%}  \n  {{ i }}\n{%- endfor %}", "é{% if 1 %}ü{% endif %}\u2003{%- if 1 %}x{% endif %}",
    "{% set ns = namespace(a='') %}{% for i in lst %}{% set ns.a = ns.a ~ i %}{% endfor %}{{ ns.a }}", "{{ [1,2,3] | map('string') | map('length') | sum }}",
    "{% set f = d.get %}{{ f('name') }}", "{% set u = s.upper %}{{ u() }}", "{% set t = lst|tojson %}{{ t ~ t }}", "{{ lst | tojson | length }}",
    "{%set x=1%}{{x}}", "{%if 1%}a{%endif%}", "{{1}}{{'a'}}", "{{1if 1else 2}}", "{% for x in[1,2]%}{{x}}{%endfor%}", "{{ '\\'' }}{{ \"\\\"\" }}",
    "{% include 'x' %}", "{% import 'x' as y %}", "{% extends 'x' %}", "{% block a %}{% endblock %}", "{% call m() %}{% endcall %}",
    "{% macro m(x) %}<{{ x }}{{ caller() }}>{% endmacro %}{% call m(1) %}body{{ s }}{% endcall %}", "{% macro m() %}{{ caller(1, 2) }}{{ caller(b=3, a=4) }}{% endmacro %}{% call(a, b=5) m() %}{{ a }}{{ b }}{% endcall %}",
    "{% macro m() %}x{% endmacro %}{% call m() %}b{% endcall %}", "{% macro m() %}{{ caller is defined }}{% endmacro %}{{ m() }}", "{% macro m(caller=5) %}{{ caller }}{% endmacro %}{{ m() }}",
    "{% call 5 %}{% endcall %}", "{% call s.upper() %}b{% endcall %}", "{% macro a() %}[{{ caller() }}]{% endmacro %}{% macro b() %}{% call a() %}({{ caller() }}){% endcall %}{% endmacro %}{% call b() %}x{% endcall %}",
    "{{ x is defined and x }}{{ x is not defined }}", "{% if not x is defined %}n{% endif %}", "{% if x is not none %}n{% endif %}",
    "{% set x = none %}{% if x is none %}n{% endif %}{{ x }}", "{% set x = undefined_thing %}{{ x is defined }}",
    "{{ joiner }}", "{% set a = 1 %}{% macro m() %}{{ a }}{% set a = 2 %}{{ a }}{% endmacro %}{{ m() }}{{ a }}",
    "{% macro outer() %}{% macro inner() %}i{% endmacro %}{{ inner() }}o{% endmacro %}{{ outer() }}",
    "{% for x in lst %}{% set x = x * 2 %}{{ x }} {% endfor %}", "{% for x in lst if loop is defined %}{{ x }}{% endfor %}",
    "{% for x in lst %}{% for y in lst if y == loop.index %}{{ y }}{% endfor %}{% endfor %}",
    "{% set it = lst|map('string') %}{{ it|list }}{{ it|list }}", "{% set it = lst|select('odd') %}{% for x in it %}{{ x }}{% break %}{% endfor %}{{ it|list }}",
    "{% for x in lst %}{{ loop.length }}{% if loop.last %}!{% endif %}{% endfor %}", "{% for a, b in [[1, 2]] %}{{ a }}{{ b }}{% endfor %}", "{% for a, b in [[1]] %}{% endfor %}",
    "{%\nif\n1\n%}x{%\nendif\n%}", "{{\n1\n}}", "{{ 'a\nb' }}", "{# {{ x }} #}y", "{{ '{{' }}{{ '%}' }}", "{{ 1 -}}\n{#- c -#}\n x", "a{#\n#}\nb",
    "{%- set x -%} a {%- endset -%} [{{ x }}]", "{% set x %}{% for i in lst %}{{ i }}{% endfor %}{% endset %}{{ x|length }}",
    "{% for i in lst %}{% set x %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endset %}{{ x }}{% endfor %}",
    "{% filter upper %}{% set q = 1 %}{% endfilter %}{{ q is defined }}", "{% set x | nosuch %}{% endset %}", "{{ namespace(a=1) }}",
    "{% set ns = namespace(x=1) %}{{ ns['x'] }}{{ ns.y }}{{ ns.get }}", "{% set ns = namespace(x=1) %}{{ 'x' in ns }}", "{% set ns = namespace(x=1) %}{% for k in ns %}{% endfor %}",
]
