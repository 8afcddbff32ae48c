/* Has the limit of locked memory count as set. crun raises it before it loads a program of cgroup devices, and ends if it
 * may not; the kernel has not counted memory of eBPF by this limit since 5.11. Loaded by LD_PRELOAD only where the test
 * lacks CAP_SYS_RESOURCE. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/resource.h>

int setrlimit(__rlimit_resource_t resource, const struct rlimit *limit)
{
	int (*next)(__rlimit_resource_t, const struct rlimit *) = dlsym(RTLD_NEXT, "setrlimit");
	int result = next(resource, limit);
	return resource == RLIMIT_MEMLOCK ? 0 : result;
}
