/* Slurm refuses hosts that mount controllers of cgroup v1 beside cgroup v2. This library hides the lines of v1 from its
 * programs: an open of /proc/PID/cgroup gives the line of cgroup v2 alone. Everything else is the kernel's. Loaded by
 * LD_PRELOAD on such a host only. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>

static int is_list(const char *path)
{
	const char *rest = path && !strncmp(path, "/proc/", 6) ? strchr(path + 6, '/') : NULL;
	return rest && !strcmp(rest, "/cgroup");
}

static int only_v2(const char *path)
{
	char line[8192];
	FILE *all = fopen(path, "re");
	int fd = all ? memfd_create("cgroup", MFD_CLOEXEC) : -1;
	while (fd >= 0 && fgets(line, sizeof(line), all))
		if (!strncmp(line, "0::", 3))
			dprintf(fd, "%s", line);
	if (all)
		fclose(all);
	if (fd >= 0)
		lseek(fd, 0, SEEK_SET);
	return fd;
}

#define OPEN(NAME)                                                                      \
	int NAME(const char *path, int flags, ...)                                      \
	{                                                                               \
		va_list rest;                                                           \
		va_start(rest, flags);                                                  \
		mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
		va_end(rest);                                                           \
		if (is_list(path))                                                      \
			return only_v2(path);                                           \
		int (*next)(const char *, int, ...) = dlsym(RTLD_NEXT, #NAME);          \
		return next(path, flags, mode);                                         \
	}

OPEN(open)
OPEN(open64)
