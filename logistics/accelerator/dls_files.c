/* Many small files of a folder at once, compiled: read them, or write them where nobody reads.
 *
 * Optional: dls does the same without it, in dls/logistics/stores/posix*.py, which say what all of it means.  A file with
 * which anything is not plain (another length, not a file, no such folder, an error of any kind) is answered by
 * None, and done again in Python, where errors are told.  The GIL is let go for the whole of a call.
 */
#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "a stamp is kept with its lowest bytes first"
#endif

#define CONTRACT 1 /* what dls.logistics.stores.posix_fast expects: another number is not used */
#define NO_MODE 0xFFFF
#define NO_TIME INT64_MIN
#define NANO 1000000000
#define FOLDER (O_PATH | O_DIRECTORY | O_CLOEXEC)
#define READ (O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK)
#define NEW (O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC)

typedef struct {
    char *key, *bytes;
    int64_t size, mtime;
    int mode, done;
    PyObject *made; /* what it is read into */
    int64_t stamp[4];
} File;

/* Read exactly `size` bytes and see that there are no more. */
static int take(int folder, File *one) {
    int fd = openat(folder, one->key, READ);
    if (fd < 0)
        return 0;
    int64_t got = 0;
    struct stat info;
    int right = one->size || (fstat(fd, &info) == 0 && S_ISREG(info.st_mode)); /* a pipe has no bytes either */
    while (right) {
        char more;
        struct iovec to[2] = {{one->bytes + got, (size_t)(one->size - got)}, {&more, 1}};
        ssize_t n = got < one->size ? readv(fd, to, 2) : read(fd, &more, 1);
        if (n < 0 && errno == EINTR)
            continue;
        right = n >= 0 && got + n <= one->size;
        if (n <= 0 || !right)
            break;
        got += n;
        if (n < (ssize_t)(to[0].iov_len + 1) && got == one->size)
            break; /* it had room for one more and there was none */
    }
    close(fd);
    return right && got == one->size;
}

static int give(int folder, File *one, int hidden) {
    int mode = one->mode, wanted = mode == NO_MODE ? 0666 : (mode & 0777) | 0200;
    int fd = openat(folder, one->key, NEW, wanted);
    if (fd < 0 && errno == EEXIST && unlinkat(folder, one->key, 0) == 0) /* left by a run that was killed */
        fd = openat(folder, one->key, NEW, wanted);
    if (fd < 0)
        return 0;
    int64_t put = 0;
    int right = 1;
    while (right && put < one->size) {
        ssize_t n = write(fd, one->bytes + put, (size_t)(one->size - put));
        if (n < 0 && errno == EINTR)
            continue;
        right = n > 0;
        put += n;
    }
    if (right && mode != NO_MODE && (mode & hidden || mode & ~0777 || !(mode & 0200)))
        right = fchmod(fd, (mode_t)mode) == 0;
    if (right && one->mtime != NO_TIME) {
        int64_t s = one->mtime / NANO, ns = one->mtime % NANO;
        if (ns < 0)
            s--, ns += NANO;
        struct timespec times[2] = {{s, ns}, {s, ns}};
        right = futimens(fd, times) == 0;
    }
    struct stat info;
    if (right && (right = fstat(fd, &info) == 0)) {
        one->stamp[0] = (int64_t)info.st_ino;
        one->stamp[1] = info.st_size;
        one->stamp[2] = info.st_mtim.tv_sec * (int64_t)NANO + info.st_mtim.tv_nsec;
        one->stamp[3] = info.st_ctim.tv_sec * (int64_t)NANO + info.st_ctim.tv_nsec;
    }
    return (close(fd) == 0) & right;
}

/* The files of a call, with their names, which stay as long as `keys` does. */
static File *files_of(PyObject *keys, Py_ssize_t count) {
    File *all = PyMem_Calloc(count ? (size_t)count : 1, sizeof(File));
    if (!all)
        return (File *)PyErr_NoMemory();
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *key = PyTuple_GetItem(keys, i);
        if (!key || PyBytes_AsStringAndSize(key, &all[i].key, NULL) < 0) { /* ValueError where a NUL is inside */
            PyMem_Free(all);
            return NULL;
        }
    }
    return all;
}

static int number(PyObject *of, Py_ssize_t i, int64_t *to) {
    PyObject *item = PyTuple_GetItem(of, i);
    if (!item)
        return 0;
    *to = PyLong_AsLongLong(item);
    return !(*to == -1 && PyErr_Occurred());
}

static PyObject *answers(File *all, Py_ssize_t count, PyObject *(*of)(File *)) {
    PyObject *list = PyList_New(count);
    for (Py_ssize_t i = 0; list && i < count; i++) {
        PyObject *one = all[i].done ? of(&all[i]) : Py_NewRef(Py_None);
        if (!one || PyList_SetItem(list, i, one) < 0)
            Py_CLEAR(list);
    }
    return list;
}

static PyObject *body_of(File *one) { return Py_NewRef(one->made); }

static PyObject *stamp_of(File *one) { return PyBytes_FromStringAndSize((char *)one->stamp, sizeof one->stamp); }

static PyObject *files_take(PyObject *module, PyObject *args) {
    (void)module;
    char *root;
    PyObject *keys, *sizes, *list = NULL;
    if (!PyArg_ParseTuple(args, "yO!O!", &root, &PyTuple_Type, &keys, &PyTuple_Type, &sizes))
        return NULL;
    Py_ssize_t count = PyTuple_Size(keys);
    File *all = files_of(keys, count);
    if (!all)
        return NULL;
    for (Py_ssize_t i = 0; i < count; i++) {
        if (!number(sizes, i, &all[i].size))
            goto end;
        if (all[i].size < 0 || all[i].size > INT32_MAX) {
            PyErr_SetString(PyExc_ValueError, "not the size of a small file");
            goto end;
        }
        if (!(all[i].made = PyBytes_FromStringAndSize(NULL, all[i].size)))
            goto end;
        all[i].bytes = PyBytes_AsString(all[i].made);
    }
    Py_BEGIN_ALLOW_THREADS;
    int folder = open(root, FOLDER);
    for (Py_ssize_t i = 0; folder >= 0 && i < count; i++)
        all[i].done = take(folder, &all[i]);
    if (folder >= 0)
        close(folder);
    Py_END_ALLOW_THREADS;
    list = answers(all, count, body_of);
end:
    for (Py_ssize_t i = 0; i < count; i++)
        Py_XDECREF(all[i].made);
    PyMem_Free(all);
    return list;
}

static PyObject *files_give(PyObject *module, PyObject *args) {
    (void)module;
    char *root;
    int hidden;
    PyObject *keys, *bodies, *modes, *mtimes, *list = NULL;
    if (!PyArg_ParseTuple(args, "yO!O!O!O!i", &root, &PyTuple_Type, &keys, &PyTuple_Type, &bodies, &PyTuple_Type, &modes,
                          &PyTuple_Type, &mtimes, &hidden))
        return NULL;
    Py_ssize_t count = PyTuple_Size(keys);
    File *all = files_of(keys, count);
    if (!all)
        return NULL;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *body = PyTuple_GetItem(bodies, i);
        Py_ssize_t size;
        int64_t mode;
        if (!body || PyBytes_AsStringAndSize(body, &all[i].bytes, &size) < 0 || !number(modes, i, &mode) ||
            !number(mtimes, i, &all[i].mtime))
            goto end;
        all[i].size = size;
        all[i].mode = (int)(mode & 0xFFFF);
    }
    Py_BEGIN_ALLOW_THREADS;
    int folder = open(root, FOLDER);
    for (Py_ssize_t i = 0; folder >= 0 && i < count; i++)
        all[i].done = give(folder, &all[i], hidden);
    if (folder >= 0)
        close(folder);
    Py_END_ALLOW_THREADS;
    list = answers(all, count, stamp_of);
end:
    PyMem_Free(all);
    return list;
}

static PyMethodDef methods[] = {
    {"take", files_take, METH_VARARGS,
     "take(root, keys, sizes): the bodies of files below a folder, None for each that is not a file of that size"},
    {"give", files_give, METH_VARARGS,
     "give(root, keys, bodies, modes, mtimes, umask): write new files, also where there is one; their stamps, None for "
     "each that could not be written"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "dls_files", "Many small files at once, for dls.logistics.", -1, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit_dls_files(void) {
    PyObject *made = PyModule_Create(&module);
    if (made && PyModule_AddIntConstant(made, "CONTRACT", CONTRACT) < 0)
        Py_CLEAR(made);
    return made;
}
