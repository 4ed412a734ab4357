/* People who come and go, and people who do not read: what happens to the connections of a run beside what is said. */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "generator.h"
#include "wire.h"

#define QUIET (SECOND / 2)

int is_coming_back;

/* ---- coming and going */

static void go(struct client *client)
{
    const uint8_t normal[2] = {1000 >> 8, 1000 & 0xff};
    put_frame(client, OP_CLOSE, normal, sizeof normal);
    flush(client);
    if (client->state != LIVE)
        return;
    note(client, "ends", "{}", 2);
    close(client->fd);
    client->state = AWAY;
    client->retry_at = now_ns() + (uint64_t)(settings.away * 1e9);
    counts.live--;
    counts.left++;
}

/* One goes at a time, --rate a second, in an order that comes to all; who has gone comes back after --away. */
void let_them_come_and_go(uint64_t begin, double length_s, size_t *next)
{
    const size_t step = stride();
    uint64_t interval = (uint64_t)(1e9 / settings.rate), due = begin, end = begin + (uint64_t)(length_s * 1e9);
    while (now_ns() < end) {
        for (; due <= now_ns() && due < end; due += interval) {
            struct client *client = &clients[*next];
            *next = (*next + step) % client_count;
            if (client->state == LIVE)
                go(client);
        }
        poll_once(due < end ? due : end);
    }
}

void wait_until_all_are_back(uint64_t end)
{
    while (counts.live + counts.failed + counts.lost < client_count && now_ns() < end)
        poll_once(end);
}

/* ---- those who do not read */

void choose_slow(void)
{
    size_t wanted = (size_t)settings.slow < client_count ? (size_t)settings.slow : client_count - 1;
    for (size_t i = 0; i < wanted; i++)
        clients[i * client_count / wanted].is_slow = 1;
}

/* What they are sent is not expected of them any more; what the others are is. */
void stop_reading(void)
{
    for (size_t i = 0; i < client_count; i++)
        if (clients[i].is_slow && clients[i].state == LIVE) {
            ignore(&clients[i]);
            clients[i].room->live--;
            counts.slow++;
        }
}

/* 1: something was read; 0: there is nothing now; -1: the server has closed it. */
static int read_away(struct client *client)
{
    static uint8_t rest[1 << 16];
    ssize_t n = recv(client->fd, rest, sizeof rest, MSG_DONTWAIT);
    if (n > 0)
        return 1;
    return n < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : -1;
}

/* They read at last: what waits in the kernel comes first, then the end, if the server has made one. Until all have ended,
 * or nothing has come for a while. */
void count_slow_closed(void)
{
    uint64_t quiet_since = now_ns(), end = quiet_since + (uint64_t)(settings.drain * 1e9);
    while (counts.slow_closed < counts.slow && now_ns() < end && now_ns() - quiet_since < QUIET) {
        for (size_t i = 0; i < client_count; i++) {
            if (!clients[i].is_slow || clients[i].state != LIVE)
                continue;
            int found = read_away(&clients[i]);
            if (found)
                quiet_since = now_ns();
            if (found < 0) {
                counts.slow_closed++;
                clients[i].state = LOST;
            }
        }
        const struct timespec pause = {.tv_nsec = SECOND / 500};
        nanosleep(&pause, NULL);
    }
}
