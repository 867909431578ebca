/* The hot path of an image on this machine, compiled: look a name up, read a small file, answer the kernel.
 *
 * Optional: dls does the same without it, in dls/fuse/{named,image,server,guess}.py, which say what all of it means, as
 * specs/image.md does.  Whatever is not plain here is left to them: a function gives None, a request is handed over.  So
 * there is no error of our own but of calling us wrongly, and an image that is damaged is told by one place only.  Each
 * byte is checked as there: sums of what is stored before it is decoded, bounds of all that an index says, and that the
 * file is still what was opened before what is mapped of it is touched.
 *
 * All state belongs to a Reader and is used by whoever holds the GIL, which is let go only while waiting.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#define XXH_INLINE_ALL
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>
#include <zstd.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "an index is read as it lies, with its lowest bytes first"
#endif

#define CONTRACT 1 /* what dls.fuse.fast expects: another number is not used */

#define LOW ((1ULL << 40) - 1)
#define SPREAD 0x9E3779B97F4A7C15ULL
#define NO_TAIL 0xFFFFFFFFu
#define HEAD 152 /* bytes of a record before its name; fields: dls/fuse/records.py */
#define RAW (1u << 24)
#define PARTS (1u << 25)
#define BYTES (RAW - 1)
#define INSIDE_AT 18
#define INSIDE ((1u << INSIDE_AT) - 1)
#define LARGEST_PART (16u << 10)
#define PART_HEAD 3
#define FRAME_HEAD 9
#define PROBES (1u << 16)
#define FRAMES_KEPT (16u << 20) /* bytes */
#define BLOCKS_KEPT 64
#define LARGEST_BLOCK (1u << 20)
#define BUFFER (64u << 10)
#define WIDE (1u << 20) /* the most that is asked for at once: server.READ_AHEAD */
#define PAGE 4096u

enum { LOOKUP = 1, FORGET = 2, GETATTR = 3, READ = 15, STATFS = 17, INTERRUPT = 36, BATCH_FORGET = 42, READDIRPLUS = 44 };
#define FOR_EVER 1000000000ULL
#define AWAKE_NS 50000 /* as server.AWAKE_S */
#define FRESH_NS 50000
#define BUSY 4
enum { SURE = 8, MOST = 32, TRUE_GAIN = 2 }; /* as guess.py */

typedef struct {
    const uint8_t *data, *sums;
    uint64_t count, pages, bytes;
    uint32_t row;
    uint8_t *seen; /* for each page of 4 KiB whether its sum was looked at */
} Table;

typedef struct {
    uint8_t *data; /* NULL: not kept */
    uint32_t size;
} Frame;

typedef struct {
    uint64_t number;
    uint8_t *data;
    uint32_t size;
} Block;

typedef struct {
    PyObject_HEAD
    Py_buffer index;
    int has_index, fd;
    int64_t file_size, mtime_s, mtime_ns;
    uint32_t block, frame_size, frame_bits;
    uint64_t root, mask;
    Table names, frames, blocks;
    const uint8_t *frame_data;
    uint64_t frame_bytes;
    Frame *kept;
    uint64_t *ring; /* numbers of kept frames, the oldest goes first */
    uint64_t ring_size, ring_at;
    Block shared[BLOCKS_KEPT];
    uint32_t shared_at;
    ZSTD_DCtx *zstd;
    uint8_t *stored; /* what was read, with room for the head of a frame before it */
    uint8_t *plain, *wide;
    /* serving */
    uint8_t *request, *ready;
    uint32_t ready_size;
    uint64_t ready_node, last, listed, listed_to; /* the folder that was listed last, and how far */
    int trust, open, others, row, tired, handed;
    int64_t until, looked_ns;
    int away; /* a read of ours waits for a disk, and others may run meanwhile */
} Reader;

static uint32_t crc_of_byte[256];

static uint64_t u64(const uint8_t *at) {
    uint64_t value;
    memcpy(&value, at, 8);
    return value;
}

static uint32_t u32(const uint8_t *at) {
    uint32_t value;
    memcpy(&value, at, 4);
    return value;
}

static uint32_t crc32_of(const uint8_t *data, size_t size, uint32_t begin) {
    uint32_t crc = ~begin;
    while (size--)
        crc = crc_of_byte[(crc ^ *data++) & 255] ^ crc >> 8;
    return ~crc;
}

static uint32_t sum_of(const uint8_t *data, size_t size) { return (uint32_t)XXH3_64bits(data, size); }

/* ------------------------------------------------------------------------------------------------ the index */

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* Whether the file is what was opened; whoever reads memory of a file that was cut short is killed. */
static int same(Reader *self) {
    struct stat info;
    if (fstat(self->fd, &info) || info.st_size != self->file_size || info.st_mtim.tv_sec != self->mtime_s ||
        info.st_mtim.tv_nsec != self->mtime_ns)
        return 0;
    self->looked_ns = now_ns();
    return 1;
}

/* The same, before what is mapped is touched: not more often than a file can be cut short between look and touch. */
static int still(Reader *self) { return now_ns() - self->looked_ns < FRESH_NS || same(self); }

/* Row i, NULL where it cannot be had. */
static const uint8_t *row_of(Table *table, uint64_t i) {
    if (i >= table->count)
        return NULL;
    uint64_t at = i * table->row, page = at / PAGE;
    if (!table->seen[page]) {
        uint64_t rest = table->bytes - page * PAGE;
        if (sum_of(table->data + page * PAGE, rest < PAGE ? rest : PAGE) != u32(table->sums + 4 * page))
            return NULL;
        table->seen[page] = 1;
    }
    return table->data + at;
}

static int decoded(Reader *self, uint8_t *out, uint32_t room, const uint8_t *data, uint32_t size) {
    unsigned long long says = ZSTD_getFrameContentSize(data, size);
    if (says > room) /* the marks of what is unknown or no frame are larger than any room */
        return -1;
    size_t done = ZSTD_decompressDCtx(self->zstd, out, says, data, size);
    return ZSTD_isError(done) || done != says ? -1 : (int)done;
}

static const Frame *frame_of(Reader *self, uint64_t number) {
    if (number >= self->frames.count)
        return NULL;
    Frame *frame = &self->kept[number];
    if (frame->data)
        return frame;
    const uint8_t *row = row_of(&self->frames, number);
    if (!row)
        return NULL;
    uint64_t at = u64(row);
    uint32_t size = u32(row + 8);
    if (at > self->frame_bytes || size > self->frame_bytes - at || sum_of(self->frame_data + at, size) != u32(row + 12))
        return NULL;
    uint64_t *slot = &self->ring[self->ring_at % self->ring_size];
    uint8_t *room = NULL;
    if (self->ring_at >= self->ring_size) {
        room = self->kept[*slot].data;
        self->kept[*slot].data = NULL;
    }
    if (!room && !(room = malloc(self->frame_size)))
        return NULL;
    int done = decoded(self, room, self->frame_size, self->frame_data + at, size);
    if (done < 0) { /* the slot names a frame that is not kept, until another takes it */
        free(room);
        return NULL;
    }
    *slot = number;
    self->ring_at++;
    frame->data = room;
    frame->size = (uint32_t)done;
    return frame;
}

/* The record at a position in space (at least HEAD bytes), NULL where it cannot be had; `rest` bytes are there. */
static const uint8_t *record_at(Reader *self, uint64_t position, uint32_t *rest) {
    const Frame *frame = frame_of(self, position >> self->frame_bits);
    uint32_t at = position & (self->frame_size - 1);
    if (!frame || at > frame->size || frame->size - at < HEAD)
        return NULL;
    *rest = frame->size - at;
    return frame->data + at;
}

static const uint8_t *record_of(Reader *self, uint64_t node, uint32_t *rest) {
    return node > LOW ? NULL : record_at(self, node << 3, rest);
}

/* 1: there it is; 0: there is none; -1: ask Python. */
static int lookup(Reader *self, uint64_t folder, const uint8_t *name, size_t size, const uint8_t **found) {
    uint32_t rest;
    const uint8_t *record = still(self) ? record_of(self, folder, &rest) : NULL;
    if (!record)
        return -1;
    uint64_t start = (u64(record + 8) & LOW) << 3, bytes = u32(record + 32) | (uint64_t)u32(record + 36) << 32;
    uint64_t hashed = crc32_of(name, size, (uint32_t)u64(record + 40)) * SPREAD, at = hashed >> 20 & self->mask;
    for (uint32_t tried = 0; tried < PROBES && tried < self->mask; tried++, at = (at + 1) & self->mask) {
        const uint8_t *row = row_of(&self->names, at);
        if (!row)
            return -1;
        uint64_t slot = u64(row), position = (slot & LOW) << 3;
        if (!slot)
            return 0;
        if (slot >> 40 != hashed >> 40 || position < start || position - start >= bytes)
            continue;
        record = record_at(self, position, &rest);
        if (!record)
            return -1;
        if (u32(record + 144) == size && size <= rest - HEAD && !memcmp(record + HEAD, name, size)) {
            *found = record;
            return 1;
        }
    }
    return -1;
}

/* Whole records of a folder from `offset` bytes of its listing on, at most `size` bytes, into self->wide: how many bytes;
 * -1: ask Python.  Each record says where the next one is, and the kernel goes there, so it must be so.  Anybody may seek
 * in a folder, to where no record begins, too: only those go on here who go on where they were. */
static int64_t listing(Reader *self, uint64_t node, uint64_t offset, uint64_t size) {
    uint32_t rest, mask = self->frame_size - 1;
    const uint8_t *record = still(self) ? record_of(self, node, &rest) : NULL;
    if (!record || u32(record + 100) >> 12 != 4)
        return -1;
    uint64_t start = (u64(record + 8) & LOW) << 3, bytes = u32(record + 32) | (uint64_t)u32(record + 36) << 32, done = 0;
    uint64_t stop = start + bytes, at = start + offset, end = offset;
    if (stop < start || at < start || (offset && (node != self->listed || offset != self->listed_to)))
        return -1;
    if (!self->wide && !(self->wide = malloc(WIDE)))
        return -1;
    if (size > WIDE)
        size = WIDE;
    while (at < stop) {
        const Frame *frame = frame_of(self, at >> self->frame_bits);
        uint64_t inside = at & mask, i = inside, last = inside + (stop - at);
        if (!frame)
            return -1;
        uint64_t limit = frame->size < last ? frame->size : last;
        int full = 0;
        while (i + HEAD < limit) {
            uint64_t name = u32(frame->data + i + 144), next = i + HEAD + ((name + 7) & ~7ULL);
            if (!name)
                break;
            if (next > limit || u64(frame->data + i + 136) != at - inside + next - start)
                return -1;
            if (done + (next - inside) > size) {
                full = 1;
                break;
            }
            i = next;
        }
        if (i > inside) {
            memcpy(self->wide + done, frame->data + inside, i - inside);
            done += i - inside;
            end = at - inside + i - start;
        }
        if (full)
            break;
        if (last <= self->frame_size && i != last)
            return -1;
        at = (at | mask) + 1;
    }
    if (!done && bytes > offset)
        return -1;
    self->listed = node;
    self->listed_to = end;
    return (int64_t)done;
}

/* ------------------------------------------------------------------------------------------------ bytes */

/* Stored bytes into self->stored + FRAME_HEAD, checked; NULL where they cannot be had, or, if not patient, not without
 * waiting for a disk.  Some file systems do not tell (EOPNOTSUPP): there everybody is patient. */
static uint8_t *fetched(Reader *self, uint64_t at, uint32_t size, uint64_t check, int patient) {
    uint8_t *room = self->stored + FRAME_HEAD;
    struct iovec part = {room, size};
    if (size > self->block + PAGE || at > (uint64_t)self->file_size || size > (uint64_t)self->file_size - at)
        return NULL;
    ssize_t came = preadv2(self->fd, &part, 1, (off_t)at, RWF_NOWAIT);
    if (came != (ssize_t)size && (patient || (came < 0 && errno == EOPNOTSUPP))) {
        self->away = 1;
        PyThreadState *state = PyEval_SaveThread();
        came = pread(self->fd, room, size, (off_t)at);
        PyEval_RestoreThread(state);
        self->away = 0;
    }
    return came == (ssize_t)size && same(self) && sum_of(room, size) == check ? room : NULL;
}

/* The content of a part into `out`, `size` bytes; whether that is what it is. */
static int part_of(Reader *self, uint8_t *out, const uint8_t *row, uint64_t check, uint32_t inside, uint32_t size, int patient) {
    uint32_t marks = u32(row + 8), length = (inside >> INSIDE_AT) + (marks & RAW ? 1 : 1 + PART_HEAD);
    if (u64(row) > (uint64_t)self->file_size)
        return 0;
    uint8_t *data = fetched(self, u64(row) + (inside & INSIDE), length, check, patient);
    if (!data)
        return 0;
    if (marks & RAW) {
        if (length != size)
            return 0;
        memcpy(out, data, size);
        return 1;
    }
    int kind = data[0] >> 1 & 3;
    if (kind == 0 && length - PART_HEAD == size) {
        memcpy(out, data + PART_HEAD, size);
        return 1;
    }
    if (kind == 1 && length - PART_HEAD == 1) {
        memset(out, data[PART_HEAD], size);
        return 1;
    }
    uint8_t *frame = data - FRAME_HEAD; /* RFC 8878, 3.1.1: magic number, one segment, 4 bytes of content size */
    memcpy(frame, "\x28\xb5\x2f\xfd\xa0", 5);
    memcpy(frame + 5, &size, 4);
    data[0] |= 1;
    size_t done = ZSTD_decompressDCtx(self->zstd, out, size, frame, FRAME_HEAD + length);
    return !ZSTD_isError(done) && done == size;
}

/* The content of a block into `out`, which has room for `most` bytes; how many it has, -1: ask Python. */
static int64_t block_of(Reader *self, uint8_t *out, uint64_t number, uint32_t most, int patient) {
    const uint8_t *row = row_of(&self->blocks, number);
    if (!row)
        return -1;
    uint32_t marks = u32(row + 8), size = marks & BYTES;
    if (!size) {
        memset(out, 0, most);
        return most;
    }
    if (size > self->block || (marks & RAW && size > most))
        return -1;
    uint8_t *data = fetched(self, u64(row), size, u32(row + 12), patient);
    if (!data)
        return -1;
    if (!(marks & RAW))
        return decoded(self, out, most, data, size);
    memcpy(out, data, size);
    return size;
}

static const Block *shared_block(Reader *self, uint64_t number, int patient) {
    for (int i = 0; i < BLOCKS_KEPT; i++)
        if (self->shared[i].data && self->shared[i].number == number)
            return &self->shared[i];
    Block *block = &self->shared[self->shared_at % BLOCKS_KEPT];
    if (!block->data && !(block->data = malloc(self->block)))
        return NULL;
    block->number = UINT64_MAX; /* of none, until it is whole */
    int64_t size = block_of(self, block->data, number, self->block, patient);
    if (size < 0)
        return NULL;
    block->number = number;
    block->size = (uint32_t)size;
    self->shared_at++;
    return block;
}

/* Where a file of one block at most lies. */
typedef struct {
    uint32_t size;
    const uint8_t *part; /* row of the block of which it is a part, or NULL */
    uint64_t a;          /* the sum of the part; else the number of a block of its own */
    uint32_t tail, inside;
} Place;

static int placed(Reader *self, uint64_t node, Place *place) {
    uint32_t rest;
    const uint8_t *record = still(self) ? record_of(self, node, &rest) : NULL;
    if (!record || u32(record + 100) >> 12 != 8)
        return 0;
    uint64_t bytes = u64(record + 48);
    *place = (Place){(uint32_t)bytes, NULL, u64(record + 8) & LOW, u32(record + 32), u32(record + 36)};
    if (!bytes || bytes > self->block)
        return 0;
    if (place->tail == NO_TAIL)
        return 1;
    const uint8_t *row = row_of(&self->blocks, place->tail);
    if (!row)
        return 0;
    if (u32(row + 8) & PARTS && bytes <= LARGEST_PART)
        place->part = row;
    else if (bytes == self->block) /* has a block of its own besides */
        return 0;
    return 1;
}

/* All bytes of such a file into `out`, which has room for a block. */
static int filled(Reader *self, const Place *place, uint8_t *out, int patient) {
    if (place->part)
        return part_of(self, out, place->part, place->a, place->inside, place->size, patient);
    if (place->tail == NO_TAIL)
        return block_of(self, out, place->a, place->size, patient) == place->size;
    const Block *block = shared_block(self, place->tail, patient);
    if (!block || place->inside > block->size || place->size > block->size - place->inside)
        return 0;
    memcpy(out, block->data + place->inside, place->size);
    return 1;
}

/* Whole blocks of a larger file, from the beginning of one on, into self->wide: how many bytes; -1: ask Python. */
static int64_t stretch(Reader *self, uint64_t node, uint64_t start, uint64_t wanted, int patient) {
    uint32_t rest;
    const uint8_t *record = still(self) ? record_of(self, node, &rest) : NULL;
    if (!record || u32(record + 100) >> 12 != 8)
        return -1;
    uint64_t a = u64(record + 8) & LOW, bytes = u64(record + 48), block = self->block;
    uint64_t own = u32(record + 32) == NO_TAIL ? bytes : bytes / block * block;
    if (start >= own || start % block)
        return -1;
    uint64_t end = bytes - start < wanted ? bytes : start + wanted;
    if (end > own || end - start > WIDE || ((end - start) % block && end != own))
        return -1;
    if (!self->wide && !(self->wide = malloc(WIDE)))
        return -1;
    for (uint64_t at = start; at < end;) {
        uint64_t plain = own - at < block ? own - at : block;
        if (block_of(self, self->wide + (at - start), a + at / block, (uint32_t)plain, patient) != (int64_t)plain)
            return -1;
        at += plain;
    }
    return (int64_t)(end - start);
}

/* ------------------------------------------------------------------------------------------------ serving */

/* 1: sent (or nobody waits for it any more), 0: the mount is gone, -1: errno is set. */
static int reply(int fd, uint64_t unique, const void *a, size_t a_size, const void *b, size_t b_size) {
    struct {
        uint32_t size;
        int32_t error;
        uint64_t unique;
    } head = {(uint32_t)(16 + a_size + b_size), 0, unique};
    struct iovec parts[3] = {{&head, 16}, {(void *)a, a_size}, {(void *)b, b_size}};
    if (writev(fd, parts, b_size ? 3 : 2) >= 0 || errno == EINTR || errno == ENOENT || errno == EAGAIN)
        return 1;
    return errno == ENODEV || errno == ECONNABORTED || errno == EBADF ? 0 : -1;
}

static void looked(Reader *self, uint64_t node) {
    if (self->last && self->trust > 0) /* the one before was not read */
        self->trust--;
    self->last = node;
    self->open = self->trust >= SURE;
}

static void prepare(Reader *self) {
    Place place;
    self->open = 0;
    self->ready_node = 0;
    if (placed(self, self->last, &place) && filled(self, &place, self->ready, 1)) {
        self->ready_size = place.size;
        self->ready_node = self->last;
    }
}

/* Answer a request: 1 done, 0 the mount is gone, -1 errno is set, 2 Python has to. */
static int answered(Reader *self, int fd, const uint8_t *data, size_t size) {
    uint32_t opcode = u32(data + 4), rest;
    uint64_t unique = u64(data + 8), node = u64(data + 16);
    const uint8_t *found;
    if (opcode == FORGET || opcode == BATCH_FORGET || opcode == INTERRUPT)
        return 1;
    if (opcode == LOOKUP && size > 41) {
        const uint8_t *name = data + 40;
        size_t length = size - 41;
        int there = lookup(self, node == 1 ? self->root : node, name, length, &found);
        if (there < 0 || (!there && name[0] == '.' && (length == 1 || (length == 2 && name[1] == '.'))))
            return 2;
        if (!there) {
            uint8_t none[128] = {0};
            memcpy(none + 16, &(uint64_t){FOR_EVER}, 8);
            return reply(fd, unique, none, 128, NULL, 0);
        }
        looked(self, u64(found));
        return reply(fd, unique, found, 128, NULL, 0);
    }
    if (opcode == GETATTR) {
        uint64_t head[2] = {FOR_EVER, 0};
        if (!still(self) || !(found = record_of(self, node == 1 ? self->root : node, &rest)))
            return 2;
        return reply(fd, unique, head, 16, found + 40, 88);
    }
    if (opcode == READ && size >= 64) {
        uint64_t start = u64(data + 48);
        uint32_t wanted = u32(data + 56);
        Place place;
        if (!start && node == self->last) {
            self->last = 0;
            self->open = 0;
            self->trust = self->trust + TRUE_GAIN > MOST ? MOST : self->trust + TRUE_GAIN;
        }
        if (!start && self->ready_node && node == self->ready_node && self->ready_size <= wanted) {
            self->ready_node = 0;
            return reply(fd, unique, self->ready, self->ready_size, NULL, 0);
        }
        if (start || !placed(self, node, &place)) {
            int64_t came = stretch(self, node, start, wanted, !self->others);
            return came < 0 ? 2 : reply(fd, unique, self->wide, (size_t)came, NULL, 0);
        }
        if (!filled(self, &place, self->plain, !self->others))
            return 2;
        return reply(fd, unique, self->plain, place.size < wanted ? place.size : wanted, NULL, 0);
    }
    if (opcode == READDIRPLUS && size >= 64) {
        int64_t came = listing(self, node == 1 ? self->root : node, u64(data + 48), u32(data + 56));
        return came < 0 ? 2 : reply(fd, unique, self->wide, (size_t)came, NULL, 0);
    }
    return 2;
}

/* Wait for the next request: its bytes; 0: look again; -1: the mount is gone; -2: errno is set. */
static ssize_t waited(Reader *self, int fd, int bell, int helps) {
    struct pollfd wake = {helps ? bell : fd, POLLIN, 0};
    for (;;) {
        ssize_t came = read(fd, self->request, BUFFER);
        if (came > 0)
            return came;
        if (came == 0 || errno == ENODEV || errno == ECONNABORTED || errno == EBADF)
            return -1;
        if (errno == EINTR)
            return 0;
        if (errno == ENOENT)
            continue;
        if (errno != EAGAIN)
            return -2;
        self->others = 0;
        if (self->open)
            return 0;
        if (helps || now_ns() > self->until) { /* who helps takes no processor from those who ask */
            if (!self->tired) { /* signals are looked at once more before we sleep */
                self->tired = 1;
                return 0;
            }
            self->tired = 0;
            if (poll(&wake, 1, -1) < 0)
                return 0;
            if (helps) {
                eventfd_t count;
                (void)eventfd_read(bell, &count); /* another one that helps was quicker, maybe */
            }
            self->until = now_ns() + AWAKE_NS;
            return 0;
        }
    }
}

static PyObject *Reader_serve(Reader *self, PyObject *args) {
    int fd, bell, helps;
    Py_buffer beats = {0};
    Py_ssize_t beat_at;
    if (!PyArg_ParseTuple(args, "iipw*n", &fd, &bell, &helps, &beats, &beat_at))
        return NULL;
    if (beat_at >= 0 && (beats.len < 8 || beat_at > beats.len - 8)) {
        PyBuffer_Release(&beats);
        return PyErr_Format(PyExc_ValueError, "there is no room for a beat at %zd", beat_at);
    }
    PyObject *out = NULL;
    int calls = bell >= 0 && !helps;
    self->others = self->handed; /* what comes now may have waited for Python's answer to the one before */
    self->handed = self->tired = 0;
    self->until = now_ns() + AWAKE_NS;
    for (;;) {
        ssize_t came = read(fd, self->request, BUFFER);
        if (came <= 0) {
            PyThreadState *state = PyEval_SaveThread();
            came = waited(self, fd, bell, helps);
            PyEval_RestoreThread(state);
        }
        if (PyErr_CheckSignals() < 0)
            break;
        if (came == 0) {
            if (self->open)
                prepare(self);
            continue;
        }
        if (came == -1) {
            out = Py_NewRef(Py_None);
            break;
        }
        if (came < 0) {
            PyErr_SetFromErrno(PyExc_OSError);
            break;
        }
        if (came < 40)
            continue;
        if (beat_at >= 0 && u32(self->request + 4) != STATFS) {
            double at = (double)now_ns() / 1e9;
            memcpy((uint8_t *)beats.buf + beat_at, &at, 8);
        }
        if (calls) {
            self->row = self->others ? self->row + 1 : 0;
            if (self->row == BUSY) {
                self->row = 0;
                (void)eventfd_write(bell, 1);
            }
        }
        int done = answered(self, fd, self->request, (size_t)came);
        if (done == 2) {
            self->handed = 1;
            out = Py_BuildValue("y#O", self->request, came, self->others ? Py_True : Py_False);
            break;
        }
        if (done == 0) {
            out = Py_NewRef(Py_None);
            break;
        }
        if (done < 0) {
            PyErr_SetFromErrno(PyExc_OSError);
            break;
        }
        self->others = 1;
        self->tired = 0;
        self->until = now_ns() + AWAKE_NS;
    }
    PyBuffer_Release(&beats);
    return out;
}

/* ------------------------------------------------------------------------------------------------ for Python */

static PyObject *Reader_lookup(Reader *self, PyObject *args) {
    unsigned long long folder;
    const char *name;
    Py_ssize_t size;
    const uint8_t *found = NULL;
    if (!PyArg_ParseTuple(args, "Ky#", &folder, &name, &size))
        return NULL;
    int there = self->away ? -1 : lookup(self, folder, (const uint8_t *)name, (size_t)size, &found);
    if (there < 0)
        Py_RETURN_NONE;
    return PyBytes_FromStringAndSize((const char *)found, there ? HEAD : 0);
}

static PyObject *Reader_content(Reader *self, PyObject *node) {
    Place place;
    unsigned long long number = PyLong_AsUnsignedLongLong(node);
    if (number == (unsigned long long)-1 && PyErr_Occurred())
        return NULL;
    if (self->away || !placed(self, number, &place))
        Py_RETURN_NONE;
    PyObject *out = PyBytes_FromStringAndSize(NULL, place.size);
    if (!out || filled(self, &place, (uint8_t *)PyBytes_AsString(out), 0))
        return out;
    Py_DECREF(out);
    Py_RETURN_NONE;
}

static int table_of(Reader *self, Table *table, uint32_t row, unsigned long long at, unsigned long long bytes,
                    unsigned long long sums_at) {
    uint64_t all = (uint64_t)self->index.len, pages = (bytes + PAGE - 1) / PAGE;
    if (at > all || bytes > all - at || bytes % row || sums_at > all || 4 * pages > all - sums_at)
        return 0;
    const uint8_t *data = self->index.buf;
    *table = (Table){data + at, data + sums_at, bytes / row, pages, bytes, row, calloc(pages + 1, 1)};
    return table->seen != NULL;
}

static void Reader_dealloc(Reader *self) {
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    if (self->kept)
        for (uint64_t i = 0; i < self->frames.count; i++)
            free(self->kept[i].data);
    for (int i = 0; i < BLOCKS_KEPT; i++)
        free(self->shared[i].data);
    free(self->kept);
    free(self->ring);
    free(self->names.seen);
    free(self->frames.seen);
    free(self->blocks.seen);
    free(self->stored);
    free(self->plain);
    free(self->wide);
    free(self->request);
    free(self->ready);
    ZSTD_freeDCtx(self->zstd);
    if (self->has_index)
        PyBuffer_Release(&self->index);
    freefunc done = (freefunc)PyType_GetSlot(type, Py_tp_free);
    done(self);
    Py_DECREF(type);
}

static PyObject *Reader_new(PyTypeObject *type, PyObject *args, PyObject *words) {
    (void)words;
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Reader *self = (Reader *)alloc(type, 0);
    if (!self)
        return NULL;
    PyObject *index;
    long long size, mtime;
    unsigned int block, frame;
    unsigned long long root, n[3], f[3], b[3], d[2];
    if (!PyArg_ParseTuple(args, "iLLOIIK(KKK)(KKK)(KKK)(KK)", &self->fd, &size, &mtime, &index, &block, &frame, &root,
                          &n[0], &n[1], &n[2], &f[0], &f[1], &f[2], &b[0], &b[1], &b[2], &d[0], &d[1]))
        goto failed;
    if (PyObject_GetBuffer(index, &self->index, PyBUF_SIMPLE) < 0)
        goto failed;
    self->has_index = 1;
    self->file_size = size;
    self->mtime_s = mtime / 1000000000;
    self->mtime_ns = mtime % 1000000000;
    if (self->mtime_ns < 0) {
        self->mtime_ns += 1000000000;
        self->mtime_s--;
    }
    self->block = block;
    self->frame_size = frame;
    self->root = root;
    uint64_t all = (uint64_t)self->index.len;
    int fits = size >= 0 && block && block <= LARGEST_BLOCK && frame >= 1024 && frame <= LARGEST_BLOCK &&
               !(frame & (frame - 1)) && d[0] <= all && d[1] <= all - d[0] &&
               table_of(self, &self->names, 8, n[0], n[1], n[2]) && table_of(self, &self->frames, 16, f[0], f[1], f[2]) &&
               table_of(self, &self->blocks, 16, b[0], b[1], b[2]) && self->names.count &&
               !(self->names.count & (self->names.count - 1));
    if (!fits) {
        PyErr_SetString(PyExc_ValueError, "the sections of an index do not fit together");
        goto failed;
    }
    self->mask = self->names.count - 1;
    while (1u << self->frame_bits < frame)
        self->frame_bits++;
    self->frame_data = (const uint8_t *)self->index.buf + d[0];
    self->frame_bytes = d[1];
    self->ring_size = FRAMES_KEPT / frame < 2 ? 2 : FRAMES_KEPT / frame;
    self->kept = calloc(self->frames.count + 1, sizeof(Frame));
    self->ring = calloc(self->ring_size, sizeof(uint64_t));
    uint32_t room = block > LARGEST_PART ? block : LARGEST_PART;
    self->stored = malloc(FRAME_HEAD + (size_t)room + PAGE);
    self->plain = malloc(room);
    self->ready = malloc(room);
    self->request = calloc(BUFFER, 1);
    self->zstd = ZSTD_createDCtx();
    if (!self->kept || !self->ring || !self->stored || !self->plain || !self->ready || !self->request || !self->zstd) {
        PyErr_NoMemory();
        goto failed;
    }
    return (PyObject *)self;
failed:
    Py_DECREF(self);
    return NULL;
}

static PyMethodDef methods[] = {
    {"lookup", (PyCFunction)Reader_lookup, METH_VARARGS,
     "lookup(folder, name): the first 152 bytes of the record of a name in a folder, b'' where there is none, or None"},
    {"content", (PyCFunction)Reader_content, METH_O, "content(node): all bytes of a file of one block at most, or None"},
    {"serve", (PyCFunction)Reader_serve, METH_VARARGS,
     "serve(fd, bell, helps, beats, at): answer requests until one is not for us: (request, whether others wait); None "
     "once the mount is gone.  The time of each is written to `beats` at `at`, if that is not negative."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, Reader_new},
    {Py_tp_dealloc, Reader_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_doc, "Reader(fd, size, mtime_ns, index, block, frame, root, names, frames, blocks, frame_data): names and "
                "small files of an image.  A table is (position, bytes, position of its sums), all in `index`."},
    {0, NULL},
};

static PyType_Spec spec = {"dls_fast.Reader", sizeof(Reader), 0, Py_TPFLAGS_DEFAULT, slots};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "dls_fast", "The hot path of dls.fuse, compiled.", -1, NULL, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit_dls_fast(void) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t crc = i;
        for (int bit = 0; bit < 8; bit++)
            crc = crc & 1 ? crc >> 1 ^ 0xEDB88320u : crc >> 1;
        crc_of_byte[i] = crc;
    }
    PyObject *made = PyModule_Create(&module);
    PyObject *type = made ? PyType_FromSpec(&spec) : NULL;
    if (!type || PyModule_AddObjectRef(made, "Reader", type) < 0 || PyModule_AddIntConstant(made, "CONTRACT", CONTRACT) < 0)
        Py_CLEAR(made);
    Py_XDECREF(type);
    return made;
}
