/* What the parts of the load generator share: generator.c (flags) uses modes.c (what happens when), talk.c (what is said,
 * counted and timed), dialects.c (in which words), clients.c (connections, bytes, the loop), churn.c (who comes and goes,
 * who does not read), storm.c (a server that is killed), log.c (what was said, for `chatd verify`) and report.c. One
 * thread; the state of a run is in the structs below. */
#ifndef BENCH_GENERATOR_H
#define BENCH_GENERATOR_H

#include <stddef.h>
#include <stdint.h>

#include "histogram.h"

#define SECOND 1000000000ull
#define LARGEST_CONTENT 4096
#define NOTE_BYTES 256
#define MOST_PORTS 16

enum kind { NEW_MESSAGE, MESSAGE_ACK, AUTHENTICATED, CAUGHT_UP, RESYNC, REFUSED, GREETING, BEAT, OTHER };
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
    int wants_write, is_slow;
    char *token, *room_id, *user_id;
    unsigned stays; /* connections so far */
    struct room *room;
    struct buffer in, out;
    uint64_t started, sent, received, asked; /* asked: when the last ping was due (echo) */
    uint64_t seq, answered, retry_at; /* in a storm: the last seq heard, messages answered, when to come back */
};

/* What was asked for (generator.c has the flags, their defaults and their meaning). Times in seconds. */
struct settings {
    double connections, handshakes, connect_limit, senders, depth, rate, warmup, seconds, drain, idle,
        deaf, recover, away, slow, content_bytes;
    const char *dialect, *mode, *clients_file, *host, *port, *log_file;
    uint16_t ports[MOST_PORTS]; /* the clients take turns in them */
    size_t port_count;
};
extern struct settings settings;

/* The measured window, in now_ns() terms. Latencies are kept of messages that were due in it. */
struct window {
    int is_open;
    uint64_t begin, end;
    uint64_t sent, acknowledged, delivered, left, other_frames;
    double seconds, cpu_seconds;
};
extern struct window window;

/* What happened, from the first connection to the last frame. */
struct counts {
    size_t live, in_handshake, failed, lost;
    uint64_t sent, acknowledged, refused, delivered, expected, other_frames, bytes_received;
    uint64_t left, slow, slow_closed;
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
__attribute__((format(printf, 1, 2), noreturn)) void fail(const char *format, ...);

/* ---- modes.c */

struct mode {
    const char *name; /* NULL after the last */
    void (*run)(void);
    int is_of_connecting; /* connecting is what is measured */
    int is_storm;
};
extern const struct mode modes[];

void connect_in(const struct mode *mode);
void report_progress_if_due(uint64_t now);
uint64_t next_progress(void);
size_t stride(void);

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
/* Nothing of it is read any more. */
void ignore(struct client *client);
/* Waits for events, not beyond `until`, and handles them. */
void poll_once(uint64_t until);

/* ---- dialects.c */

void choose_dialect(void);
const char *upgrade_target(void);
size_t write_authentication(char *text, size_t size, const struct client *client, const char *token, const char *resume);
int is_authenticating_at_once(void);
size_t write_message(char *text, size_t size, const struct client *client, const char *content, const char *key);
size_t write_ping(char *text, size_t size, const struct client *client);
enum kind kind_of(const uint8_t *payload, size_t length);
void answer_beat(struct client *client);
size_t first_message(const uint8_t *payload, size_t length);

/* ---- churn.c */

extern int is_coming_back; /* who has gone comes back when it is time */

void let_them_come_and_go(uint64_t begin, double length_s, size_t *next);
void wait_until_all_are_back(uint64_t end);
void choose_slow(void);
void stop_reading(void);
void count_slow_closed(void);

/* ---- talk.c */

extern int is_echoing;        /* pings instead of messages */
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
