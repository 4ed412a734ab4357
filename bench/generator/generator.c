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
 *   echo        closed loop as throughput, with one ping each: authenticated, but nothing is stored or told to others
 *   churn       --rate clients a second go, each comes back after --away seconds; nothing is said
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
#include <time.h>
#include <unistd.h>

#include "generator.h"

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
    .away = 12,
    .dialect = "chatd",
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
    {"--away", &settings.away, NULL, "churn: seconds for which one is gone (12)"},
    {"--slow", &settings.slow, NULL, "so many clients do not read once all are connected, and say nothing (0)"},
    {"--dialect", NULL, &settings.dialect, "how the server is talked to: chatd, socketio or centrifugo (chatd)"},
    {"--content-bytes", &settings.content_bytes, NULL, "length of a message's content (64)"},
};
#define OPTIONS (sizeof options / sizeof *options)

uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * SECOND + (uint64_t)now.tv_nsec;
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
        fprintf(stderr, "usage: generator throughput|steady|connect|storm|echo|churn|fanout --port PORT[,PORT…] --clients FILE [flags]\n");
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
    choose_dialect();
    if (settings.content_bytes > LARGEST_CONTENT || settings.handshakes < 1 || settings.rate < 1)
        fail("--content-bytes is at most %d; --handshakes and --rate are at least 1", LARGEST_CONTENT);
}

int main(int argc, char **argv)
{
    read_flags(argc, argv);
    const struct mode *mode = modes;
    while (mode->name && strcmp(settings.mode, mode->name))
        mode++;
    if (!mode->name)
        fail("%s: the modes are throughput, steady, connect, storm, echo, churn and fanout", settings.mode);
    prctl(PR_SET_TIMERSLACK, 1);
    double longest = settings.away + settings.connect_limit + settings.warmup + settings.seconds + settings.drain * 3 + settings.idle;
    is_following = mode->is_storm;
    if (is_following)
        longest += settings.deaf + settings.recover;
    alarm((unsigned)longest + 30); /* whatever happens, it ends */
    read_clients();
    open_log();
    choose_slow();
    if (settings.senders > (double)client_count)
        settings.senders = (double)client_count;
    prepare_talk();

    connect_in(mode);
    stop_reading();
    mode->run();
    count_slow_closed();
    close_log();
    print_report();
    return 0;
}
