/* Floor of the benches of mounts: a FUSE server that has nothing to do.  It knows the generated tree by its names
 * (dNNNNN/fNNNNNNN), answers look-ups and reads at once, with bytes that mean nothing, and cannot list.
 *
 *     nothing FOLDER SIZES        SIZES: a file of 4 bytes for each file's size.  Mounts (as root), goes on by itself.
 *
 * It looks for requests for 50 µs before it sleeps, as ours does.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define FIRST_FILE 10000000 /* number of file 0; folders come before it */
#define FOR_EVER 1000000000

static uint32_t *sizes;
static long files;
static char bytes[1 << 20];

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static uint64_t size_of(uint64_t node) {
    return node >= FIRST_FILE && node < (uint64_t)(FIRST_FILE + files) ? sizes[node - FIRST_FILE] : 0;
}

static struct fuse_attr attr_of(uint64_t node) {
    int file = node >= FIRST_FILE;
    return (struct fuse_attr){
        .ino = node, .nlink = 1, .blksize = 4096, .size = size_of(node), .mode = file ? S_IFREG | 0644 : S_IFDIR | 0755};
}

static void serve(int fd) {
    static char request[1 << 16];
    struct pollfd wake = {fd, POLLIN, 0};
    double until = 0;
    for (;;) {
        if (read(fd, request, sizeof request) < 0) {
            if (errno == EAGAIN) {
                if (now() > until) {
                    poll(&wake, 1, -1);
                    until = now() + 50e-6;
                }
            } else if (errno != EINTR && errno != ENOENT)
                return;
            continue;
        }
        struct fuse_in_header *in = (void *)request;
        char *body = request + sizeof *in;
        struct fuse_out_header out = {sizeof out, 0, in->unique};
        struct fuse_entry_out entry = {0};
        struct fuse_attr_out attr = {0};
        struct fuse_init_out init = {0};
        struct iovec parts[2] = {{&out, sizeof out}, {NULL, 0}};
        if (in->opcode == FUSE_FORGET || in->opcode == FUSE_BATCH_FORGET || in->opcode == FUSE_INTERRUPT)
            continue;
        if (in->opcode == FUSE_DESTROY)
            return;
        if (in->opcode == FUSE_INIT) {
            init.major = 7;
            init.minor = 31;
            init.max_readahead = 1 << 20;
            init.flags = ((struct fuse_init_in *)body)->flags &
                         (FUSE_ASYNC_READ | FUSE_NO_OPEN_SUPPORT | FUSE_PARALLEL_DIROPS | FUSE_MAX_PAGES |
                          FUSE_NO_OPENDIR_SUPPORT);
            init.max_background = 64;
            init.congestion_threshold = 48;
            init.max_write = 4096;
            init.time_gran = 1;
            init.max_pages = 256;
            parts[1] = (struct iovec){&init, 64};
        } else if (in->opcode == FUSE_LOOKUP) {
            long number = atol(body + 1);
            entry.nodeid = body[0] == 'd' ? 2 + number : FIRST_FILE + number;
            entry.entry_valid = entry.attr_valid = FOR_EVER;
            entry.attr = attr_of(entry.nodeid);
            parts[1] = (struct iovec){&entry, sizeof entry};
        } else if (in->opcode == FUSE_GETATTR) {
            attr.attr_valid = FOR_EVER;
            attr.attr = attr_of(in->nodeid);
            parts[1] = (struct iovec){&attr, sizeof attr};
        } else if (in->opcode == FUSE_READ) {
            struct fuse_read_in *wanted = (void *)body;
            uint64_t size = size_of(in->nodeid), rest = wanted->offset < size ? size - wanted->offset : 0;
            parts[1] = (struct iovec){bytes, rest < wanted->size ? rest : wanted->size};
        } else
            out.error = -ENOSYS;
        out.len += parts[1].iov_len;
        if (writev(fd, parts, 2) < 0 && errno == ENODEV)
            return;
        until = now() + 50e-6;
    }
}

int main(int count, char **words) {
    if (count != 3)
        return 2;
    FILE *told = fopen(words[2], "rb");
    if (!told || fseek(told, 0, SEEK_END))
        return 1;
    files = ftell(told) / 4;
    rewind(told);
    sizes = malloc(4 * files + 4);
    if (!sizes || fread(sizes, 4, files, told) != (size_t)files)
        return 1;
    int fd = open("/dev/fuse", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    char options[100];
    snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", fd);
    if (fd < 0 || mount("nothing", words[1], "fuse.nothing", MS_NOSUID | MS_NODEV | MS_RDONLY, options))
        return 1;
    if (fork())
        return 0;
    setsid();
    serve(fd);
}
