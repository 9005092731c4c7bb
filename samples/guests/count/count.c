/* A core module with `_start` (WASI preview 1), the target of the older toolchains: counts the lines, words and bytes of the files
 * named by its arguments, as wc does. Exits with 2 without arguments and with 1 if a file cannot be read. */
#include <ctype.h>
#include <stdio.h>

static int count(const char *path) {
    FILE *file = fopen(path, "r");
    if (!file) {
        perror(path);
        return 1;
    }
    long lines = 0, words = 0, bytes = 0;
    int inside = 0, c;
    while ((c = getc(file)) != EOF) {
        bytes++;
        lines += c == '\n';
        words += !isspace(c) && !inside;
        inside = !isspace(c);
    }
    fclose(file);
    printf("%ld %ld %ld %s\n", lines, words, bytes, path);
    return 0;
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: count FILE...\n");
        return 2;
    }
    int failed = 0;
    for (int i = 1; i < argc; i++)
        failed |= count(argv[i]);
    return failed;
}
