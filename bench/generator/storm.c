/* A storm: the server is killed under its clients, is started again by the harness, and all come back at once, each
 * resuming where it was. Every client counts the seqs that it is sent: what is left out is missing, what comes twice is
 * surplus. Before the kill the clients stop reading, so that each has missed the last messages of its room. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "generator.h"

#define COME_BACK_AFTER (SECOND / 20)
#define KILL_LIMIT (10 * SECOND)
#define CURVE_POINTS 200

int is_following, is_storming, is_deaf;
static uint64_t *recovered_at;
static size_t recovered;

/* ---- what a client has heard of its room */

void follow_from(struct client *client, uint64_t seq)
{
    client->seq = seq;
    if (client->room->seq < seq)
        client->room->seq = seq;
}

void follow(struct client *client, uint64_t seq)
{
    if (seq <= client->seq) {
        counts.repeated++;
        return;
    }
    counts.skipped += seq - client->seq - 1;
    follow_from(client, seq);
}

static int all_have_heard_the_same(void)
{
    for (size_t i = 0; i < client_count; i++)
        if (clients[i].seq < clients[i].room->seq)
            return 0;
    return 1;
}

/* ---- going and coming back */

/* The connection is gone, or was refused: the client comes back. */
void leave_for_now(struct client *client, double retry_after_s)
{
    if (client->state == LIVE)
        counts.live--;
    else
        counts.in_handshake--;
    client->state = AWAY;
    client->retry_at = now_ns() + (retry_after_s > 0 ? (uint64_t)(retry_after_s * 1e9) : COME_BACK_AFTER);
    counts.tries++;
}

void come_back(uint64_t now)
{
    static size_t next;
    for (size_t i = 0; i < client_count && counts.in_handshake < (size_t)settings.handshakes; i++) {
        struct client *client = &clients[next];
        next = (next + 1) % client_count;
        if (client->state == AWAY && client->retry_at <= now)
            start_connecting(client);
    }
}

void on_caught_up(struct client *client, uint64_t seq)
{
    if (client->seq < seq) {
        counts.skipped += seq - client->seq;
        follow_from(client, seq);
    }
    if (client->state != AUTHENTICATING)
        return;
    client->state = LIVE;
    counts.in_handshake--;
    counts.live++;
    recovered_at[recovered++ % client_count] = now_ns();
}

static void wait_for_the_kill(void)
{
    struct pollfd first = {.fd = clients[0].fd, .events = POLLRDHUP};
    uint64_t end = now_ns() + KILL_LIMIT;
    while (now_ns() < end)
        if (poll(&first, 1, 100) > 0 && first.revents & (POLLRDHUP | POLLHUP | POLLERR))
            return;
    fail("the server was not killed");
}

/* Nothing that still waits in the sockets is read any more. */
static void drop_all(void)
{
    for (size_t i = 0; i < client_count; i++)
        if (clients[i].state == LIVE) {
            counts.cut += clients[i].sent - clients[i].answered;
            clients[i].answered = clients[i].sent;
            lose(&clients[i], "killed");
        }
}

/* Between these two the harness kills the server and starts it again. */
void begin_storm(void)
{
    recovered_at = grown(NULL, client_count * sizeof *recovered_at);
    dprintf(2, "mark kill\n");
    wait_for_the_kill();
    is_deaf = 0;
    is_storming = 1;
    drop_all();
}

void end_storm(uint64_t end)
{
    while (counts.live < client_count && now_ns() < end)
        poll_once(end);
    is_storming = 0;
}

void wait_until_all_have_heard_the_same(uint64_t end)
{
    while (!(counts.acknowledged + counts.refused + counts.cut >= counts.sent && all_have_heard_the_same()) &&
           now_ns() < end)
        poll_once(now_ns() + SECOND / 50);
}

/* ---- the report */

void print_storm(void)
{
    uint64_t behind = 0;
    size_t rooms = 0;
    for (size_t i = 0; i < client_count; i++) {
        behind += clients[i].room->seq - clients[i].seq;
        rooms += !clients[i].room->is_counted;
        clients[i].room->is_counted = 1;
    }
    printf(", \"rooms\": %zu", rooms);
    printf(", \"missing\": %llu", (unsigned long long)(counts.skipped + behind));
    printf(", \"surplus\": %llu", (unsigned long long)counts.repeated);
    printf(", \"resyncs\": %llu, \"tries\": %llu", (unsigned long long)counts.resyncs, (unsigned long long)counts.tries);
    /* seconds of the machine's monotonic clock, and how many were back */
    printf(", \"recovered\": [");
    size_t total = recovered < client_count ? recovered : client_count, step = total / CURVE_POINTS + 1;
    for (size_t i = 0; i < total; i++)
        if (i % step == 0 || i + 1 == total)
            printf("%s[%.4f, %zu]", i ? ", " : "", (double)recovered_at[i] / 1e9, i + 1);
    printf("]");
}
