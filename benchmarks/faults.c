/* Under a program (LD_PRELOAD): fails its calls on files below one directory, as a page of shared memory says.
 *
 * The page is set by faults_page, in the process whose calls are to fail; before that nothing fails. Calls are counted
 * from 1; those from the number `first` to the number `last` fail with `error`. A disk that is full or read-only still
 * reads: with another error than EIO only what writes is counted.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

struct page {
  int calls, first, last, error, struck;
  char root[492];
  char what[512]; /* the last call that failed */
};

static struct page *page;

void faults_page(struct page *at) { page = at; }

static int fails(const char *call, const char *path, int writes) {
  struct page *p = page;
  size_t length = p ? strlen(p->root) : 0;
  if (!length || strncmp(path, p->root, length) || (!writes && p->error != EIO)) return 0;
  int number = __atomic_add_fetch(&p->calls, 1, __ATOMIC_SEQ_CST);
  if (number < p->first || number > p->last) return 0;
  __atomic_add_fetch(&p->struck, 1, __ATOMIC_SEQ_CST);
  snprintf(p->what, sizeof p->what, "%s %s", call, path + length);
  errno = p->error;
  return 1;
}

static int under(const char *call, int folder, const char *name, int writes) {
  char link[64], path[8192];
  if (!page || !name) return 0;
  if (name[0] == '/') return fails(call, name, writes);
  if (folder == AT_FDCWD) {
    if (!getcwd(path, 4096)) return 0;
  } else {
    snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
    ssize_t length = readlink(link, path, 4095);
    if (length < 0) return 0;
    path[length] = 0;
  }
  size_t length = strlen(path);
  snprintf(path + length, sizeof path - length, "/%s", name);
  return fails(call, path, writes);
}

static int held(const char *call, int descriptor) {
  char link[64], path[4096];
  if (!page) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return fails(call, path, 1);
}

#define REAL(name) static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)
#define WRITES(flags) (((flags) & (O_WRONLY | O_RDWR | O_CREAT)) != 0)
#define MODE(flags) \
  mode_t mode = 0; \
  if ((flags) & (O_CREAT | __O_TMPFILE)) { va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); }

#define OPEN(name) \
  int name(const char *path, int flags, ...) { \
    MODE(flags) REAL(name); \
    return under("open", AT_FDCWD, path, WRITES(flags)) ? -1 : real(path, flags, mode); }
#define OPENAT(name) \
  int name(int folder, const char *path, int flags, ...) { \
    MODE(flags) REAL(name); \
    return under("open", folder, path, WRITES(flags)) ? -1 : real(folder, path, flags, mode); }
#define FOPEN(name) \
  FILE *name(const char *path, const char *how) { \
    REAL(name); \
    return under("open", AT_FDCWD, path, strpbrk(how, "wa+") != 0) ? NULL : real(path, how); }
OPEN(open) OPEN(open64) OPENAT(openat) OPENAT(openat64) FOPEN(fopen) FOPEN(fopen64)

ssize_t write(int d, const void *b, size_t n) { REAL(write); return held("write", d) ? -1 : real(d, b, n); }
ssize_t pwrite(int d, const void *b, size_t n, off_t o) { REAL(pwrite); return held("write", d) ? -1 : real(d, b, n, o); }
ssize_t pwrite64(int d, const void *b, size_t n, off64_t o) { REAL(pwrite64); return held("write", d) ? -1 : real(d, b, n, o); }
ssize_t writev(int d, const struct iovec *v, int n) { REAL(writev); return held("write", d) ? -1 : real(d, v, n); }
int fsync(int d) { REAL(fsync); return held("fsync", d) ? -1 : real(d); }
int fdatasync(int d) { REAL(fdatasync); return held("fsync", d) ? -1 : real(d); }
int ftruncate(int d, off_t n) { REAL(ftruncate); return held("truncate", d) ? -1 : real(d, n); }
int ftruncate64(int d, off64_t n) { REAL(ftruncate64); return held("truncate", d) ? -1 : real(d, n); }

int rename(const char *a, const char *b) { REAL(rename); return under("rename", AT_FDCWD, a, 1) ? -1 : real(a, b); }
int renameat(int f, const char *a, int t, const char *b) { REAL(renameat); return under("rename", f, a, 1) ? -1 : real(f, a, t, b); }
int renameat2(int f, const char *a, int t, const char *b, unsigned o) { REAL(renameat2); return under("rename", f, a, 1) ? -1 : real(f, a, t, b, o); }
int link(const char *a, const char *b) { REAL(link); return under("link", AT_FDCWD, b, 1) ? -1 : real(a, b); }
int linkat(int f, const char *a, int t, const char *b, int o) { REAL(linkat); return under("link", t, b, 1) ? -1 : real(f, a, t, b, o); }
int unlink(const char *a) { REAL(unlink); return under("unlink", AT_FDCWD, a, 1) ? -1 : real(a); }
int unlinkat(int f, const char *a, int o) { REAL(unlinkat); return under("unlink", f, a, 1) ? -1 : real(f, a, o); }
int rmdir(const char *a) { REAL(rmdir); return under("unlink", AT_FDCWD, a, 1) ? -1 : real(a); }
int mkdir(const char *a, mode_t m) { REAL(mkdir); return under("mkdir", AT_FDCWD, a, 1) ? -1 : real(a, m); }
int mkdirat(int f, const char *a, mode_t m) { REAL(mkdirat); return under("mkdir", f, a, 1) ? -1 : real(f, a, m); }
