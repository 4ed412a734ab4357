/* A load generator for chatd and its peers: thousands of WebSocket clients in one thread, on one core.
 *
 *   generator MODE --port PORT[,PORT…] --clients FILE [flags]   (flags and their defaults: options[] below)
 *
 * FILE has one line per client: "token roomId userId". Each client connects, authenticates and is then in its room.
 * With several ports (nodes of one service) the clients take turns in them, so that neighbours in a room are apart.
 *
 *   throughput  closed loop: --senders clients keep --depth messages each unacknowledged, for --warmup + --seconds
 *   steady      open loop: --rate messages a second over all clients, whatever the server does. Every message carries
 *               the time at which it was due, and latency counts from then: a late send is the server's delay (or
 *               the generator's, see send_lag), never left out
 *   connect     how fast all clients are authenticated, at most --handshakes at once; then idle for --idle seconds
 *   storm       as steady, then the server is killed and started again by the harness ("mark kill"), and all come back
 *               with `resume`, at most --handshakes at once; the window is from the kill until all have caught up
 *   fanout      one client sends, the next message follows when every client has received the last
 *
 * stderr has lines for the harness: "progress PHASE DONE TOTAL ACKNOWLEDGED DELIVERED" and "mark begin", "mark end"
 * around the measured window ("mark idle-begin", "mark idle-end" around idling). stdout gets one JSON object.
 * Loopback addresses only. Every phase has an end.
 */
#define _GNU_SOURCE
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "generator.h"

#define TICK (SECOND / 5)

struct settings settings = {
    .handshakes = 64,
    .connect_limit = 120,
    .senders = 1,
    .depth = 1,
    .rate = 1000,
    .warmup = 2,
    .seconds = 5,
    .drain = 10,
    .idle = 5,
    .deaf = 2,
    .recover = 60,
    .content_bytes = 64,
    .host = "127.0.0.1",
};

static const struct option {
    const char *flag;
    double *number;
    const char **text;
    const char *meaning;
} options[] = {
    {"--port", NULL, &settings.port, "the server's port, or those of its nodes: 3001,3002"},
    {"--clients", NULL, &settings.clients_file, "file of 'token roomId userId' lines"},
    {"--log", NULL, &settings.log_file, "file for all that clients send and hear, for chatd verify"},
    {"--host", NULL, &settings.host, "an address in 127.0.0.0/8"},
    {"--connections", &settings.connections, NULL, "use the first so many lines (default: all)"},
    {"--handshakes", &settings.handshakes, NULL, "connections in the handshake at once (64)"},
    {"--connect-limit", &settings.connect_limit, NULL, "seconds for connecting all (120)"},
    {"--senders", &settings.senders, NULL, "throughput: how many clients send (1)"},
    {"--depth", &settings.depth, NULL, "throughput: unacknowledged messages of each sender (1)"},
    {"--rate", &settings.rate, NULL, "steady: messages a second over all clients (1000)"},
    {"--warmup", &settings.warmup, NULL, "seconds before the window (2)"},
    {"--seconds", &settings.seconds, NULL, "the measured window (5)"},
    {"--drain", &settings.drain, NULL, "seconds to wait for what is still missing (10)"},
    {"--idle", &settings.idle, NULL, "connect: seconds to hold idle connections (5)"},
    {"--deaf", &settings.deaf, NULL, "storm: seconds before the kill in which nobody reads (2)"},
    {"--recover", &settings.recover, NULL, "storm: seconds within which all should be back (60)"},
    {"--content-bytes", &settings.content_bytes, NULL, "length of a message's content (64)"},
};
#define OPTIONS (sizeof options / sizeof *options)

struct window window;

static const char *phase = "start";
static uint64_t phase_begin, phase_length, next_tick;

uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * SECOND + (uint64_t)now.tv_nsec;
}

static double cpu_seconds(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(1);
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
static size_t stride(void)
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
            if (client->state != LIVE)
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

static void run_idle(void)
{
    dprintf(2, "mark idle-begin\n");
    begin_phase("idle", settings.idle);
    poll_until(phase_begin + phase_length);
    dprintf(2, "mark idle-end\n");
}

/* ---- the command line */

static void read_ports(void)
{
    for (const char *text = settings.port; text; text = *text == ',' ? text + 1 : NULL) {
        char *rest;
        unsigned long port = strtoul(text, &rest, 10);
        if (rest == text || port < 1 || port > 65535 || (*rest && *rest != ',') || settings.port_count == MOST_PORTS)
            fail("--port %s: not a port, or at most %d of them, with commas between", settings.port, MOST_PORTS);
        settings.ports[settings.port_count++] = (uint16_t)port;
        text = rest;
    }
}

static void read_flags(int argc, char **argv)
{
    if (argc < 2 || argv[1][0] == '-') {
        fprintf(stderr, "usage: generator throughput|steady|connect|storm|fanout --port PORT[,PORT…] --clients FILE [flags]\n");
        for (size_t i = 0; i < OPTIONS; i++)
            fprintf(stderr, "  %-16s %s\n", options[i].flag, options[i].meaning);
        exit(2);
    }
    settings.mode = argv[1];
    for (int i = 2; i < argc; i += 2) {
        const struct option *option = options;
        while (option < options + OPTIONS && strcmp(argv[i], option->flag))
            option++;
        if (option == options + OPTIONS || i + 1 == argc)
            fail("%s: unknown flag, or its value is missing", argv[i]);
        char *rest = "";
        if (option->text)
            *option->text = argv[i + 1];
        else
            *option->number = strtod(argv[i + 1], &rest);
        if (*rest || (option->number && *option->number < 0))
            fail("%s %s: not a number of 0 or more", argv[i], argv[i + 1]);
    }
    if (!settings.port || !settings.clients_file)
        fail("--port and --clients are needed");
    read_ports();
    if (settings.content_bytes > LARGEST_CONTENT || settings.handshakes < 1 || settings.rate < 1)
        fail("--content-bytes is at most %d; --handshakes and --rate are at least 1", LARGEST_CONTENT);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } modes[] = {{"throughput", run_throughput},
                 {"steady", run_steady},
                 {"connect", run_idle},
                 {"storm", run_storm},
                 {"fanout", run_fanout}};
    const size_t mode_count = sizeof modes / sizeof *modes;
    read_flags(argc, argv);
    size_t chosen = 0;
    while (chosen < mode_count && strcmp(settings.mode, modes[chosen].name))
        chosen++;
    if (chosen == mode_count)
        fail("%s: the modes are throughput, steady, connect, storm and fanout", settings.mode);
    prctl(PR_SET_TIMERSLACK, 1);
    double longest = settings.connect_limit + settings.warmup + settings.seconds + settings.drain * 3 + settings.idle;
    is_following = modes[chosen].run == run_storm;
    if (is_following)
        longest += settings.deaf + settings.recover;
    alarm((unsigned)longest + 30); /* whatever happens, it ends */
    read_clients();
    open_log();
    if (settings.senders > (double)client_count)
        settings.senders = (double)client_count;
    prepare_talk();

    if (modes[chosen].run == run_idle) /* here connecting is what is measured */
        begin_window();
    begin_phase("connect", 0);
    uint64_t begin = now_ns();
    connect_all();
    counts.connect_seconds = (double)(now_ns() - begin) / 1e9;
    if (modes[chosen].run == run_idle)
        end_window();
    modes[chosen].run();
    close_log();
    print_report();
    return 0;
}
