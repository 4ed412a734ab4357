/* People who come and go, and people who do not read: what happens to the connections of a run beside what is said. */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "generator.h"
#include "wire.h"

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

/* Reads what the kernel still has for them, to learn whom the server has closed. */
void count_slow_closed(void)
{
    static uint8_t rest[1 << 16];
    for (size_t i = 0; i < client_count; i++) {
        ssize_t n = 1;
        if (!clients[i].is_slow || clients[i].state != LIVE)
            continue;
        while (n > 0 || (n < 0 && errno == EINTR))
            n = recv(clients[i].fd, rest, sizeof rest, MSG_DONTWAIT);
        counts.slow_closed += !n || (errno != EAGAIN && errno != EWOULDBLOCK);
    }
}
