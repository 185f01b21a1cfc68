/* err.h - error codes and messages, the only way anything below main reports failure.
 *
 * A function that can fail returns int: QL_OK (0) or one of the negative codes below, and fills *e when e is not
 * NULL.  Lifetime: struct ql_err is plain memory owned by the caller; a zeroed one is "no error".  Thread-safe: no
 * global state.  A message never holds secrets, pointers or SQL. */
#ifndef QL_BASE_ERR_H
#define QL_BASE_ERR_H

#include <stdarg.h>
#include <stdint.h>

enum ql_code {
	QL_OK = 0,
	QL_EINVAL = -1,       /* an argument or a request is wrong */
	QL_ENOMEM = -2,       /* host memory */
	QL_EIO = -3,          /* the operating system refused a read, write, sync, … */
	QL_EFORMAT = -4,      /* a file or message breaks its format; offset tells where */
	QL_ELIMIT = -5,       /* a limit of limits.h is exceeded */
	QL_ENOTFOUND = -6,    /* no such thing */
	QL_EUNSUPPORTED = -7, /* valid, but not offered here */
	QL_ESTATE = -8,       /* not possible in the present state */
	QL_ESHAPE = -9,       /* tensor shapes or dtypes do not fit */
	QL_EDEVICE = -10,     /* the device failed; sticky unless said otherwise */
	QL_ENODEVMEM = -11,   /* device memory exhausted */
	QL_ECANCELLED = -12,  /* stopped on request */
	QL_ENOSPC = -13,      /* disk full or quota */
	QL_EMISMATCH = -14,   /* two things that must agree do not (hash, base, vocabulary) */
	QL_EEXIST = -15,      /* already there */
	QL_EBUSY = -16,       /* try again later */
	QL_ENONFINITE = -17,  /* NaN or infinity where a number is needed */
	QL_EINTERNAL = -18    /* a defect of ours */
};

#define QL_NO_OFFSET UINT64_MAX

struct ql_err {
	int code;          /* enum ql_code */
	uint64_t offset;   /* byte offset or line in the input, QL_NO_OFFSET if none */
	char param[64];    /* field, key or tensor name at fault, maybe cut; "" if none */
	char message[512]; /* for people */
	/* both are always NUL-terminated UTF-8, whatever they quote and wherever they were cut */
};

/* Each returns `code`, so that `return ql_err_set(e, QL_EINVAL, "…")` reads well.  e may be NULL. */
int ql_err_set(struct ql_err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
int ql_err_setv(struct ql_err *e, int code, const char *fmt, va_list ap);
/* The same with the byte offset (or line) of the fault; ", at byte N" is appended to the message. */
int ql_err_at(struct ql_err *e, int code, uint64_t offset, const char *fmt, ...) __attribute__((format(printf, 4, 5)));
/* The same with the name of the field at fault. */
int ql_err_param(struct ql_err *e, int code, const char *param, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));
/* Message plus strerror(errno); the code is QL_ENOSPC, QL_ENOMEM, QL_ENOTFOUND, QL_EEXIST or QL_EIO by errno. */
int ql_err_errno(struct ql_err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Puts "what: " before the message; returns e->code. */
int ql_err_prefix(struct ql_err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* "QL_EINVAL" → "invalid argument"; never NULL. */
const char *ql_code_text(int code);

#endif
