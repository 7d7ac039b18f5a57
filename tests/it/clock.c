/* Another clock for one program: preloaded into the agent by tests, which write into the page that the file named by
 * VK_CMD_TEST_CLOCK holds. The program itself has no such setting.
 *
 * `shift` moves the wall clock, as when somebody sets the clock of a host. `speed` lets all clocks, and the waits of
 * the event loop, run so many times as fast: an hour of the agent in a minute of the test. */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

struct page {
    long version;       /* odd while the others are being written */
    long shift;         /* seconds, of the wall clock */
    long speed;         /* 1 or more */
    long since, gained; /* the monotonic clock when the speed was set, and what it had gained by then; nanoseconds */
};

static const volatile struct page *page;

__attribute__((constructor)) static void find(void)
{
    const char *path = getenv("VK_CMD_TEST_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    void *found = mmap(0, sizeof *page, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (found != MAP_FAILED)
        page = found;
}

static struct page read_page(void)
{
    struct page found;
    do {
        found.version = __atomic_load_n(&page->version, __ATOMIC_ACQUIRE);
        found.shift = page->shift;
        found.speed = page->speed;
        found.since = page->since;
        found.gained = page->gained;
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
    } while (found.version % 2 || found.version != page->version);
    return found;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int result = syscall(SYS_clock_gettime, clock, now);
    int wall = clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE;
    int steady = clock == CLOCK_MONOTONIC || clock == CLOCK_MONOTONIC_COARSE || clock == CLOCK_BOOTTIME;
    if (result || !page || !(wall || steady))
        return result;
    struct page it = read_page();
    struct timespec steadily;
    syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &steadily);
    long passed = steadily.tv_sec * 1000000000L + steadily.tv_nsec - it.since;
    long gained = it.gained + passed * (it.speed - 1);
    long nanos = now->tv_nsec + gained % 1000000000L;
    now->tv_sec += gained / 1000000000L + nanos / 1000000000L + (wall ? it.shift : 0);
    now->tv_nsec = nanos % 1000000000L;
    return 0;
}

int epoll_wait(int epoll, struct epoll_event *events, int most, int timeout)
{
    if (timeout > 0 && page) {
        long speed = read_page().speed;
        timeout = (timeout + speed - 1) / speed;
    }
    return syscall(SYS_epoll_pwait, epoll, events, most, timeout, (void *)0, 8);
}
