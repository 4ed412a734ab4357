/* What the parts of the load generator share: generator.c (flags, modes) uses talk.c (what is said, counted and timed),
 * clients.c (connections, bytes, the loop), storm.c (a server that is killed), log.c (what was said, for `chatd verify`)
 * and report.c. One thread; the state of a run is in the structs below. */
#ifndef BENCH_GENERATOR_H
#define BENCH_GENERATOR_H

#include <stddef.h>
#include <stdint.h>

#include "histogram.h"

#define SECOND 1000000000ull
#define LARGEST_CONTENT 4096
#define NOTE_BYTES 256
#define MOST_PORTS 16

enum state { WAITING, CONNECTING, UPGRADING, AUTHENTICATING, LIVE, AWAY, LOST };

struct buffer {
    uint8_t *bytes;
    size_t start, end, capacity;
};

struct room {
    uint64_t acknowledged, seq; /* the newest seq that any member knows of (storm) */
    unsigned live;
    int is_counted;
};

struct client {
    int fd;
    enum state state;
    int wants_write;
    char *token, *room_id, *user_id;
    unsigned stays; /* connections so far */
    struct room *room;
    struct buffer in, out;
    uint64_t started, sent, received;
    uint64_t seq, answered, retry_at; /* in a storm: the last seq heard, messages answered, when to come back */
};

/* What was asked for (generator.c has the flags, their defaults and their meaning). Times in seconds. */
struct settings {
    double connections, handshakes, connect_limit, senders, depth, rate, warmup, seconds, drain, idle,
        deaf, recover, content_bytes;
    const char *mode, *clients_file, *host, *port, *log_file;
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
    uint64_t skipped, repeated, resyncs, cut, tries; /* in a storm; cut: unanswered when the server was killed */
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
void start_connecting(struct client *client);
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

/* ---- storm.c */

extern int is_following; /* the clients count the seqs of their rooms */
extern int is_storming;  /* who is lost or refused comes back */
extern int is_deaf;      /* nobody reads */

void follow_from(struct client *client, uint64_t seq);
void follow(struct client *client, uint64_t seq);
void on_caught_up(struct client *client, uint64_t seq);
void leave_for_now(struct client *client, double retry_after_s);
/* Starts those whose time has come, as far as settings.handshakes lets them. */
void come_back(uint64_t now);
/* Has the server killed and drops every connection; then waits until all are back. */
void begin_storm(void);
void end_storm(uint64_t end);
void wait_until_all_have_heard_the_same(uint64_t end);
void print_storm(void);

/* ---- log.c */

/* Does nothing without settings.log_file. */
void open_log(void);
/* `what`: opens, sent, heard or ends; `message`: a JSON object. */
void note(const struct client *client, const char *what, const void *message, size_t length);
void close_log(void);

/* ---- report.c */

void print_report(void);

#endif
