/* cm.h - what every cmocka test includes, in the order cmocka wants. */
#ifndef QL_TESTS_CM_H
#define QL_TESTS_CM_H
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#endif
