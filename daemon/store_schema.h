/* store_schema.h - the list of migrations; see store_schema.c.  ql_store_migrations_n equals QL_STORE_VERSION. */
#ifndef QL_DAEMON_STORE_SCHEMA_H
#define QL_DAEMON_STORE_SCHEMA_H

extern const char *const ql_store_migrations[];
extern const int ql_store_migrations_n;

#endif
