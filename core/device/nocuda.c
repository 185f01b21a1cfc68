/* nocuda.c - stands in for gpu/ in builds without it. */
#include "core/device/device.h"

int ql_device_cuda(struct ql_device **out, int ordinal, struct ql_err *e)
{
	(void)ordinal;
	*out = NULL;
	return ql_err_set(e, QL_EUNSUPPORTED, "this build has no CUDA backend");
}
