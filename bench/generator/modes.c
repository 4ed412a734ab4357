/* The modes: what happens when, the measured window, and progress for the harness. generator.c says what each is for. */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "generator.h"

#define TICK (SECOND / 5)

struct window window;

static const char *phase = "start";
static uint64_t phase_begin, phase_length, next_tick;

static double cpu_seconds(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

/* ---- progress */

static void tick(uint64_t now)
{
    double done = (double)(now - phase_begin) / 1e9, total = (double)phase_length / 1e9;
    if (!phase_length) {
        done = (double)counts.live;
        total = (double)client_count;
    }
    dprintf(2, "progress %s %.2f %.2f %llu %llu\n", phase, done, total, (unsigned long long)counts.acknowledged,
            (unsigned long long)counts.delivered);
    next_tick = now + TICK;
}

void report_progress_if_due(uint64_t now)
{
    if (now >= next_tick)
        tick(now);
}

uint64_t next_progress(void)
{
    return next_tick;
}

static void begin_phase(const char *name, double length_s)
{
    phase = name;
    phase_begin = now_ns();
    phase_length = (uint64_t)(length_s * 1e9);
    tick(phase_begin);
}
static int is_complete(void)
{
    return counts.acknowledged + counts.refused >= counts.sent && counts.delivered >= counts.expected;
}

static void wait_for_the_rest(void)
{
    begin_phase("drain", settings.drain);
    uint64_t begin = now_ns(), end = begin + (uint64_t)(settings.drain * 1e9);
    while (!is_complete() && now_ns() < end)
        poll_once(end);
    counts.drain_seconds = (double)(now_ns() - begin) / 1e9;
}

static void poll_until(uint64_t end)
{
    while (now_ns() < end)
        poll_once(end);
}

static void begin_window(void)
{
    begin_phase("measure", settings.seconds);
    dprintf(2, "mark begin\n");
    window.begin = now_ns();
    window.end = window.begin + phase_length;
    window.seconds = 0;
    window.cpu_seconds = -cpu_seconds();
    window.is_open = 1;
}

static void end_window(void)
{
    uint64_t now = now_ns();
    window.is_open = 0;
    window.cpu_seconds += cpu_seconds();
    window.seconds = (double)(now - window.begin) / 1e9;
    window.end = now;
    dprintf(2, "mark end\n");
}

/* ---- the modes */

static void run_throughput(void)
{
    begin_phase("warm-up", settings.warmup);
    is_answering = 1;
    for (size_t i = 0; i < (size_t)settings.senders; i++) {
        struct client *client = &clients[i * client_count / (size_t)settings.senders];
        if (client->state != LIVE)
            continue;
        for (size_t n = 0; n < (size_t)settings.depth; n++)
            put_message(client, now_ns());
        flush(client);
    }
    poll_until(phase_begin + phase_length);
    begin_window();
    poll_until(window.end);
    end_window();
    is_answering = 0;
    wait_for_the_rest();
}

/* A step that visits all clients before one comes twice, with neighbours (one room) far apart. */
size_t stride(void)
{
    size_t step = client_count * 618 / 1000 + 1, a, b;
    for (;; step++) {
        for (a = step, b = client_count; b;) {
            size_t rest = a % b;
            a = b;
            b = rest;
        }
        if (a == 1)
            return step;
    }
}

/* Sends `length_s` seconds' worth of messages at the times at which they are due, starting from `*due`. */
static void send_steadily(uint64_t *due, double length_s, size_t *next)
{
    const size_t step = stride();
    uint64_t begin = *due, interval = (uint64_t)(1e9 / settings.rate), messages = (uint64_t)(settings.rate * length_s);
    for (uint64_t i = 0; i < messages;) {
        uint64_t now = now_ns();
        for (; i < messages && *due <= now; *due = begin + ++i * interval) {
            struct client *client = &clients[*next];
            *next = (*next + step) % client_count;
            if (client->state != LIVE || client->is_slow)
                continue;
            if (window.is_open && now - *due > counts.largest_send_lag)
                counts.largest_send_lag = now - *due;
            put_message(client, *due);
            flush(client);
        }
        poll_once(*due);
    }
}

static void run_steady(void)
{
    size_t next = 0;
    is_timing_delivery = 1;
    begin_phase("warm-up", settings.warmup);
    uint64_t due = phase_begin;
    send_steadily(&due, settings.warmup, &next);
    begin_window();
    window.begin = due; /* if the last messages of the warm-up were late, the first measured ones are late too */
    window.end = due + phase_length;
    send_steadily(&due, settings.seconds, &next);
    uint64_t end = window.end;
    end_window();
    window.end = end;
    wait_for_the_rest();
}

/* One message at a time until `end`. A round that takes more than the drain time ends it. */
static void send_rounds(uint64_t end)
{
    struct client *client = NULL;
    for (size_t i = 0; i < client_count && !client; i++)
        if (clients[i].state == LIVE)
            client = &clients[i];
    for (uint64_t begin = now_ns(); begin < end; begin = now_ns()) {
        uint64_t wanted = counts.delivered + client->room->live, patience = begin + (uint64_t)(settings.drain * 1e9);
        put_message(client, begin);
        flush(client);
        while (counts.delivered < wanted && now_ns() < patience)
            poll_once(patience);
        if (counts.delivered < wanted)
            return;
        if (window.is_open)
            histogram_add(&counts.round_times, now_ns() - begin);
    }
}

static void run_fanout(void)
{
    begin_phase("warm-up", settings.warmup);
    send_rounds(phase_begin + phase_length);
    begin_window();
    send_rounds(window.end);
    end_window();
    wait_for_the_rest();
}

static void run_storm(void)
{
    size_t next = 0;
    begin_phase("warm-up", settings.warmup + settings.deaf);
    uint64_t due = phase_begin;
    send_steadily(&due, settings.warmup, &next);
    is_deaf = 1;
    send_steadily(&due, settings.deaf, &next);
    begin_storm();
    begin_window();
    begin_phase("recover", 0);
    end_storm(now_ns() + (uint64_t)(settings.recover * 1e9));
    end_window();
    begin_phase("live", settings.seconds);
    due = phase_begin;
    send_steadily(&due, settings.seconds, &next);
    begin_phase("drain", settings.drain);
    wait_until_all_have_heard_the_same(phase_begin + phase_length);
}

static void run_echo(void)
{
    is_echoing = 1;
    run_throughput();
}

static void run_churn(void)
{
    size_t next = 0;
    is_coming_back = 1;
    begin_phase("warm-up", settings.warmup);
    let_them_come_and_go(phase_begin, settings.warmup, &next);
    begin_window();
    memset(&counts.handshake_times, 0, sizeof counts.handshake_times); /* those of the first coming */
    uint64_t left_before = counts.left;
    let_them_come_and_go(window.begin, settings.seconds, &next);
    end_window();
    window.left = counts.left - left_before;
    begin_phase("back", settings.away + settings.drain);
    wait_until_all_are_back(phase_begin + phase_length);
}

static void run_idle(void)
{
    dprintf(2, "mark idle-begin\n");
    begin_phase("idle", settings.idle);
    poll_until(phase_begin + phase_length);
    dprintf(2, "mark idle-end\n");
}

const struct mode modes[] = {
    {"throughput", run_throughput, 0, 0},
    {"steady", run_steady, 0, 0},
    {"connect", run_idle, 1, 0},
    {"storm", run_storm, 0, 1},
    {"echo", run_echo, 0, 0},
    {"churn", run_churn, 0, 0},
    {"fanout", run_fanout, 0, 0},
    {NULL, NULL, 0, 0},
};

void connect_in(const struct mode *mode)
{
    if (mode->is_of_connecting)
        begin_window();
    begin_phase("connect", 0);
    uint64_t begin = now_ns();
    connect_all();
    counts.connect_seconds = (double)(now_ns() - begin) / 1e9;
    if (mode->is_of_connecting)
        end_window();
}
