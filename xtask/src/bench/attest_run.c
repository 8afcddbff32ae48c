/* attest-run FOLDER PROCESSES: loads each library of the folder and forks; the processes wait. Prints a line when all are there. */
#include <dirent.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    DIR *dir = opendir(argv[1]);
    if (!dir) return 3;
    char path[4096];
    int loaded = 0;
    for (struct dirent *entry; (entry = readdir(dir));) {
        if (!strstr(entry->d_name, ".so")) continue;
        snprintf(path, sizeof path, "%s/%s", argv[1], entry->d_name);
        if (!dlopen(path, RTLD_NOW)) {
            fprintf(stderr, "%s\n", dlerror());
            return 4;
        }
        loaded++;
    }
    closedir(dir);
    for (int n = 1; n < atoi(argv[2]); n++) {
        pid_t child = fork();
        if (child < 0) return 5;
        if (child == 0) {
            pause();
            _exit(0);
        }
    }
    printf("loaded %d\n", loaded);
    fflush(stdout);
    pause();
    return 0;
}
