/* What the parts of the load generator share: generator.c (flags, modes) uses talk.c (what is said, counted and timed),
 * clients.c (connections, bytes, the loop) and report.c. One thread; the state of a run is in the structs below. */
#ifndef BENCH_GENERATOR_H
#define BENCH_GENERATOR_H

#include <stddef.h>
#include <stdint.h>

#include "histogram.h"

#define SECOND 1000000000ull
#define LARGEST_CONTENT 4096
#define NOTE_BYTES 256
#define MOST_PORTS 16

enum state { WAITING, CONNECTING, UPGRADING, AUTHENTICATING, LIVE, LOST };

struct buffer {
    uint8_t *bytes;
    size_t start, end, capacity;
};

struct room {
    uint64_t acknowledged;
    unsigned live;
};

struct client {
    int fd;
    enum state state;
    int wants_write;
    char *token, *room_id;
    struct room *room;
    struct buffer in, out;
    uint64_t started, sent, received;
};

/* What was asked for (generator.c has the flags, their defaults and their meaning). Times in seconds. */
struct settings {
    double connections, handshakes, connect_limit, senders, depth, rate, warmup, seconds, drain, idle,
        content_bytes;
    const char *mode, *clients_file, *host, *port;
    uint16_t ports[MOST_PORTS]; /* the clients take turns in them */
    size_t port_count;
};
extern struct settings settings;

/* The measured window, in now_ns() terms. Latencies are kept of messages that were due in it. */
struct window {
    int is_open;
    uint64_t begin, end;
    uint64_t sent, acknowledged, delivered;
    double seconds, cpu_seconds;
};
extern struct window window;

/* What happened, from the first connection to the last frame. */
struct counts {
    size_t live, in_handshake, failed, lost;
    uint64_t sent, acknowledged, refused, delivered, expected, other_frames, bytes_received;
    uint64_t last_arrival; /* of an acknowledgement or a delivery */
    char first_failure[NOTE_BYTES], first_refusal[NOTE_BYTES], first_loss[NOTE_BYTES];
    uint64_t largest_send_lag; /* of the generator itself: how late a message left (steady) */
    double connect_seconds, drain_seconds;
    struct histogram handshake_times, ack_times, delivery_times, round_times;
};
extern struct counts counts;

/* ---- generator.c */

uint64_t now_ns(void);
void report_progress_if_due(uint64_t now);
uint64_t next_progress(void);
__attribute__((format(printf, 1, 2), noreturn)) void fail(const char *format, ...);

/* ---- clients.c */

extern struct client *clients;
extern size_t client_count;

void *grown(void *memory, size_t bytes);
void read_clients(void);
/* Connects and authenticates all, at most settings.handshakes at once. Those not live after the limit are lost. */
void connect_all(void);
/* Queues a masked frame; flush() sends what is queued as far as the socket takes it, the loop sends the rest. */
void put_frame(struct client *client, unsigned opcode, const void *payload, size_t length);
void flush(struct client *client);
void lose(struct client *client, const char *why);
/* Waits for events, not beyond `until`, and handles them. */
void poll_once(uint64_t until);

/* ---- talk.c */

extern int is_answering;      /* every acknowledgement is followed by the client's next message */
extern int is_timing_delivery; /* deliveries are timed, not only counted */

void prepare_talk(void);
/* Keeps the text if `note` (NOTE_BYTES long) is still empty. */
void note_once(char *note, const void *text, size_t length);
void put_authentication(struct client *client);
/* Queues one chat message; the caller flushes. `due`: when it should have left. */
void put_message(struct client *client, uint64_t due);
void on_text(struct client *client, const uint8_t *payload, size_t length, uint64_t now);

/* ---- report.c */

void print_report(void);

#endif
