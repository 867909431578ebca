/* The least that a large download asks: ranges of one object by several threads, received and written, not hashed.
 *
 * down HEADS PORT FILE SIZE RANGE THREADS: in the file HEADS are those of the requests, all of one length, one for each
 * range, in order.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PIECE (256 << 10)

static char *heads;
static long length, count, next_one, size, range;
static int port, file;
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;

static void give_up(const char *what) {
    perror(what);
    exit(1);
}

static void fetch(int sock, char *buffer, long number) {
    long at = number * range, stop = at + range > size ? size : at + range, got = 0;
    if (send(sock, heads + number * length, length, 0) != length)
        give_up("send");
    do {
        if (got == PIECE || recv(sock, buffer + got, 1, 0) != 1)
            give_up("head");
        got++;
    } while (got < 4 || memcmp(buffer + got - 4, "\r\n\r\n", 4));
    if (memcmp(buffer, "HTTP/1.1 20", 11))
        give_up("status");
    while (at < stop) {
        long wanted = stop - at < PIECE ? stop - at : PIECE;
        if (recv(sock, buffer, wanted, MSG_WAITALL) != wanted || pwrite(file, buffer, wanted, at) != wanted)
            give_up("body");
        at += wanted;
    }
}

static void *work(void *nothing) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int sock = socket(AF_INET, SOCK_STREAM, 0);
    char *buffer = malloc(PIECE);
    if (connect(sock, (struct sockaddr *)&to, sizeof to))
        give_up("connect");
    for (;;) {
        pthread_mutex_lock(&turn);
        long mine = next_one++;
        pthread_mutex_unlock(&turn);
        if (mine >= count)
            return nothing;
        fetch(sock, buffer, mine);
    }
}

int main(int words, char **word) {
    pthread_t threads[16];
    if (words != 7)
        return 2;
    port = atoi(word[2]), size = atol(word[4]), range = atol(word[5]);
    int many = atoi(word[6]), said = open(word[1], O_RDONLY);
    count = (size + range - 1) / range;
    heads = malloc(count << 12);
    length = read(said, heads, count << 12) / count;
    if (length <= 0 || (file = open(word[3], O_WRONLY | O_CREAT | O_EXCL, 0644)) < 0 || posix_fallocate(file, 0, size))
        give_up(word[3]);
    for (int i = 0; i < many; i++)
        pthread_create(&threads[i], NULL, work, NULL);
    for (int i = 0; i < many; i++)
        pthread_join(threads[i], NULL);
    return 0;
}
