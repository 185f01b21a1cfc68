/* vm.c - errors and budgets of one rendering. */
#include <stdarg.h>
#include <stdio.h>

#include "core/base/limits.h"
#include "core/text/tmpl/value.h"

int vm_nomem(struct vm *m)
{
	if (m->arena.max - m->arena.used < QL_MIB(16))
		return ql_err_set(m->e, QL_ELIMIT, "template line %u: more than %zu MiB of values", m->line,
				  QL_TMPL_MEMORY_MAX >> 20);
	return ql_err_set(m->e, QL_ENOMEM, "template line %u: out of memory", m->line);
}

int vm_limit(struct vm *m, const char *what) { return ql_err_set(m->e, QL_ELIMIT, "template line %u: %s", m->line, what); }

int vm_raise(struct vm *m, const char *kind, const char *fmt, ...)
{
	char what[400];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(what, sizeof what, fmt, ap);
	va_end(ap);
	return ql_err_set(m->e, QL_EINVAL, "template line %u: %s: %s", m->line, kind, what);
}

int vm_unsupported(struct vm *m, const char *fmt, ...)
{
	char what[300];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(what, sizeof what, fmt, ap);
	va_end(ap);
	return ql_err_set(m->e, QL_EUNSUPPORTED, "template line %u: %s is not supported", m->line, what);
}

int vm_step(struct vm *m, size_t n)
{
	m->work += 64 + n;
	return vm_over(m);
}

int vm_over(struct vm *m)
{
	return m->work <= m->max_work ? QL_OK : vm_limit(m, "more steps than a template may take");
}

int vm_undef_error(struct vm *m, struct val v)
{
	const struct undef *u = v.undef;
	const char *kind = u->security ? "SecurityError" : "UndefinedError";
	const char *type = v_type(u->obj);

	if (u->hint != NULL)
		return vm_raise(m, kind, "%s", u->hint);
	if (u->security)
		return vm_raise(m, kind, "access to attribute '%.*s' of '%s' object is unsafe.",
				(int)(u->name.s->len > 200 ? 200 : u->name.s->len), u->name.s->p, type);
	if (u->obj.kind == V_MISSING)
		return vm_raise(m, kind, "'%.*s' is undefined", (int)(u->name.s->len > 200 ? 200 : u->name.s->len), u->name.s->p);
	if (u->name.kind != V_STR)
		return u->name.kind == V_INT ? vm_raise(m, kind, "%s%s has no element %lld", u->obj.kind == V_NONE ? "None" : type,
							u->obj.kind == V_NONE ? "" : " object", (long long)u->name.i)
					     : vm_raise(m, kind, "%s object has no such element", type);
	if (u->obj.kind == V_NONE)
		return vm_raise(m, kind, "'None' has no attribute '%.*s'", (int)(u->name.s->len > 200 ? 200 : u->name.s->len),
				u->name.s->p);
	return vm_raise(m, kind, "'%s object' has no attribute '%.*s'", type,
			(int)(u->name.s->len > 200 ? 200 : u->name.s->len), u->name.s->p);
}

void *vm_alloc(struct vm *m, size_t size)
{
	void *p = tmpl_alloc(&m->arena, size);

	m->work += size; /* memory is work too: pages are made and cleared */
	if (p == NULL)
		(void)vm_nomem(m);
	return p;
}
