/* A load generator for chatd and its peers: thousands of WebSocket clients in one thread, on one core.
 *
 *   generator MODE --port PORT --clients FILE [flags]        (flags and their defaults: options[] below)
 *
 * FILE has one line per client: "token roomId userId". Each client connects, authenticates and is then in its room.
 *
 *   throughput  closed loop: --senders clients keep --depth messages each unacknowledged, for --warmup + --seconds
 *   steady      open loop: --rate messages a second over all clients, whatever the server does. Every message carries
 *               the time at which it was due, and latency counts from then: a late send is the server's delay (or
 *               the generator's, see send_lag), never left out
 *   connect     how fast all clients are authenticated, at most --handshakes at once; then idle for --idle seconds
 *   fanout      one client sends, the next message follows when every client has received the last
 *
 * stderr has lines for the harness: "progress PHASE DONE TOTAL ACKNOWLEDGED DELIVERED" and "mark begin", "mark end"
 * around the measured window ("mark idle-begin", "mark idle-end" around idling). stdout gets one JSON object.
 * Loopback addresses only. Every phase has an end.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <search.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "histogram.h"
#include "wire.h"

#define SECOND 1000000000ull
#define TICK (SECOND / 5)
#define MARKER "~T~" /* before the 19 digits of the time at which a message was due */
#define MARKER_DIGITS 19
#define READ_BYTES (1 << 20)
#define LARGEST_MESSAGE (8 << 20)
#define LARGEST_CONTENT 4096

enum state { WAITING, CONNECTING, UPGRADING, AUTHENTICATING, LIVE, LOST };
enum kind { NEW_MESSAGE, MESSAGE_ACK, AUTHENTICATED, REFUSED, OTHER };

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

/* ---- what was asked for ------------------------------------------------------------------------------------- */

static double port, connections, handshakes = 64, connect_limit = 120, senders = 1, depth = 1, rate = 1000, warmup = 2,
                    seconds = 5, drain = 10, idle = 5, content_bytes = 64;
static const char *mode, *clients_file, *host = "127.0.0.1";

static const struct option {
    const char *flag;
    double *number;
    const char **text;
    const char *meaning;
} options[] = {
    {"--port", &port, NULL, "the server's port"},
    {"--clients", NULL, &clients_file, "file of 'token roomId userId' lines"},
    {"--host", NULL, &host, "an address in 127.0.0.0/8"},
    {"--connections", &connections, NULL, "use the first so many lines (default: all)"},
    {"--handshakes", &handshakes, NULL, "connections in the handshake at once (64)"},
    {"--connect-limit", &connect_limit, NULL, "seconds for connecting all (120)"},
    {"--senders", &senders, NULL, "throughput: how many clients send (1)"},
    {"--depth", &depth, NULL, "throughput: unacknowledged messages of each sender (1)"},
    {"--rate", &rate, NULL, "steady: messages a second over all clients (1000)"},
    {"--warmup", &warmup, NULL, "seconds before the window (2)"},
    {"--seconds", &seconds, NULL, "the measured window (5)"},
    {"--drain", &drain, NULL, "seconds to wait for what is still missing (10)"},
    {"--idle", &idle, NULL, "connect: seconds to hold idle connections (5)"},
    {"--content-bytes", &content_bytes, NULL, "length of a message's content (64)"},
};
#define OPTIONS (sizeof options / sizeof *options)

/* ---- what happened ------------------------------------------------------------------------------------------ */

static struct client *clients;
static size_t client_count, live_count, handshake_count, failed_count, lost_count;
static int epoll_fd;
static uint8_t *read_buffer;
static char filler[LARGEST_CONTENT + 1];

static int is_sending, is_measuring;
static uint64_t window_begin, window_end; /* messages due in it are the measured ones (steady) */
static uint64_t sent, acknowledged, refused, delivered, expected, other_frames, bytes_received;
static uint64_t last_arrival, largest_send_lag;
static uint64_t window_sent, window_acknowledged, window_delivered;
static double window_seconds, window_cpu_seconds, connect_seconds, drain_seconds;
static char first_failure[256], first_refusal[256], first_loss[256];
static struct histogram handshake_times, ack_times, delivery_times, round_times;

static const char *phase = "start";
static uint64_t phase_begin, phase_length, next_tick;

static uint64_t now_ns(void)
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

__attribute__((format(printf, 1, 2), noreturn)) static void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(1);
}

__attribute__((format(printf, 2, 3))) static void note_first(char *note, const char *format, ...)
{
    if (*note)
        return;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(note, 256, format, arguments);
    va_end(arguments);
}

/* ---- progress ----------------------------------------------------------------------------------------------- */

static void tick(uint64_t now)
{
    double done = (double)(now - phase_begin) / 1e9, total = (double)phase_length / 1e9;
    if (!phase_length) {
        done = (double)live_count;
        total = (double)client_count;
    }
    dprintf(2, "progress %s %.2f %.2f %llu %llu\n", phase, done, total, (unsigned long long)acknowledged,
            (unsigned long long)delivered);
    next_tick = now + TICK;
}

static void begin_phase(const char *name, double length_s)
{
    phase = name;
    phase_begin = now_ns();
    phase_length = (uint64_t)(length_s * 1e9);
    tick(phase_begin);
}

/* ---- sending ------------------------------------------------------------------------------------------------ */

static void *grown(void *memory, size_t bytes)
{
    void *larger = realloc(memory, bytes);
    if (!larger)
        fail("out of memory");
    return larger;
}

static void buffer_reserve(struct buffer *buffer, size_t more)
{
    if (buffer->start == buffer->end)
        buffer->start = buffer->end = 0;
    if (buffer->capacity - buffer->end >= more)
        return;
    size_t waiting = buffer->end - buffer->start;
    if (waiting)
        memmove(buffer->bytes, buffer->bytes + buffer->start, waiting);
    buffer->start = 0;
    buffer->end = waiting;
    if (buffer->capacity - waiting < more) {
        buffer->capacity = (waiting + more) * 3 / 2;
        buffer->bytes = grown(buffer->bytes, buffer->capacity);
    }
}

static void watch(struct client *client, int wants_write, int operation)
{
    struct epoll_event event = {.events = EPOLLIN | (wants_write ? EPOLLOUT : 0), .data.ptr = client};
    if (epoll_ctl(epoll_fd, operation, client->fd, &event))
        fail("epoll_ctl: %s", strerror(errno));
    client->wants_write = wants_write;
}

static void lose(struct client *client, const char *why)
{
    if (client->state == LOST)
        return;
    if (client->state == LIVE) {
        lost_count++;
        note_first(first_loss, "%s", why);
    } else {
        failed_count++;
        handshake_count--;
        note_first(first_failure, "%s", why);
    }
    close(client->fd);
    client->state = LOST;
}

static void flush(struct client *client)
{
    struct buffer *out = &client->out;
    if (client->state == LOST)
        return;
    while (out->start < out->end) {
        ssize_t n = send(client->fd, out->bytes + out->start, out->end - out->start, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            if (errno != EAGAIN)
                lose(client, strerror(errno));
            else if (!client->wants_write)
                watch(client, 1, EPOLL_CTL_MOD);
            return;
        }
        out->start += (size_t)n;
    }
    if (client->wants_write)
        watch(client, 0, EPOLL_CTL_MOD);
}

static void put_frame(struct client *client, unsigned opcode, const void *payload, size_t length)
{
    static uint64_t state = 0x9e3779b97f4a7c15ull;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    uint8_t mask[4];
    memcpy(mask, &state, 4);
    buffer_reserve(&client->out, length + WIRE_LARGEST_HEADER);
    client->out.end += wire_write_frame(client->out.bytes + client->out.end, opcode, payload, length, mask);
}

/* Queues one chat message; the caller flushes. `due`: when it should have left, in now_ns() terms. */
static void put_message(struct client *client, uint64_t due)
{
    char text[LARGEST_CONTENT + 512];
    int stamp_length = (int)strlen(MARKER) + MARKER_DIGITS + 1;
    int filling = (int)content_bytes > stamp_length ? (int)content_bytes - stamp_length : 0;
    int length = snprintf(text, sizeof text,
                          "{\"type\":\"send_message\",\"roomId\":\"%s\",\"content\":\"" MARKER "%0*llu %.*s\","
                          "\"clientMessageId\":\"" MARKER "%0*llu-%llu\"}",
                          client->room_id, MARKER_DIGITS, (unsigned long long)due, filling, filler, MARKER_DIGITS,
                          (unsigned long long)due, (unsigned long long)client->sent);
    put_frame(client, OP_TEXT, text, (size_t)length);
    client->sent++;
    sent++;
    if (is_measuring)
        window_sent++;
}

/* ---- receiving ---------------------------------------------------------------------------------------------- */

static enum kind kind_of(const uint8_t *payload, size_t length)
{
    const uint8_t *end = payload + length, *word = NULL;
    if (length > 12 && !memcmp(payload, "{\"type\":", 8))
        word = payload + 8;
    else if ((word = memmem(payload, length, "\"type\":", 7)))
        word += 7;
    else
        return OTHER;
    while (word < end && (*word == ' ' || *word == '"'))
        word++;
#define IS(text) ((size_t)(end - word) > sizeof text - 1 && !memcmp(word, text "\"", sizeof text))
    if (IS("new_message"))
        return NEW_MESSAGE;
    if (IS("message_ack"))
        return MESSAGE_ACK;
    if (IS("error") || IS("auth_error"))
        return REFUSED;
    return IS("authenticated") ? AUTHENTICATED : OTHER;
#undef IS
}

/* When the message in `payload` was due; 0: it does not say. Looks first where the last one had it. */
static uint64_t due_of(const uint8_t *payload, size_t length, size_t *usual_place)
{
    const size_t marker = strlen(MARKER);
    const uint8_t *found = payload + *usual_place;
    if (*usual_place + marker + MARKER_DIGITS > length || memcmp(found, MARKER, marker)) {
        found = memmem(payload, length, MARKER, marker);
        if (!found || (size_t)(payload + length - found) < marker + MARKER_DIGITS)
            return 0;
        *usual_place = (size_t)(found - payload);
    }
    uint64_t due = 0;
    for (size_t i = marker; i < marker + MARKER_DIGITS; i++)
        due = due * 10 + (found[i] - '0');
    return due;
}

static int is_measured(uint64_t due)
{
    return due >= window_begin && due < window_end;
}

static void on_acknowledged(struct client *client, const uint8_t *payload, size_t length, uint64_t now)
{
    static size_t usual_place;
    acknowledged++;
    client->room->acknowledged++;
    expected += client->room->live;
    last_arrival = now;
    if (is_measuring)
        window_acknowledged++;
    uint64_t due = due_of(payload, length, &usual_place);
    if (is_measured(due))
        histogram_add(&ack_times, now - due);
    if (is_sending)
        put_message(client, now);
}

static void on_delivered(struct client *client, const uint8_t *payload, size_t length, uint64_t now)
{
    static size_t usual_place;
    delivered++;
    client->received++;
    last_arrival = now;
    if (is_measuring)
        window_delivered++;
    if (rate > 0) {
        uint64_t due = due_of(payload, length, &usual_place);
        if (is_measured(due))
            histogram_add(&delivery_times, now - due);
    }
}

static void on_text(struct client *client, const uint8_t *payload, size_t length, uint64_t now)
{
    switch (kind_of(payload, length)) {
    case NEW_MESSAGE:
        on_delivered(client, payload, length, now);
        return;
    case MESSAGE_ACK:
        on_acknowledged(client, payload, length, now);
        return;
    case AUTHENTICATED:
        if (client->state != AUTHENTICATING)
            return;
        client->state = LIVE;
        handshake_count--;
        live_count++;
        histogram_add(&handshake_times, now - client->started);
        return;
    case REFUSED:
        if (client->state != LIVE) {
            char why[200];
            snprintf(why, sizeof why, "%.*s", (int)length, (const char *)payload);
            lose(client, why);
            return;
        }
        refused++;
        note_first(first_refusal, "%.*s", (int)(length < 200 ? length : 200), (const char *)payload);
        if (is_sending)
            put_message(client, now);
        return;
    case OTHER:
        other_frames++;
    }
}

static void on_frame(struct client *client, const struct frame *frame, uint64_t now)
{
    switch (frame->opcode) {
    case OP_TEXT:
        if (!frame->is_final)
            lose(client, "the server sent a fragmented message");
        else
            on_text(client, frame->payload, frame->length, now);
        return;
    case OP_PING:
        put_frame(client, OP_PONG, frame->payload, frame->length);
        return;
    case OP_CLOSE: {
        char why[200] = "closed without a code";
        if (frame->length >= 2)
            snprintf(why, sizeof why, "closed with %u %.*s", frame->payload[0] << 8 | frame->payload[1],
                     (int)frame->length - 2, (const char *)frame->payload + 2);
        lose(client, why);
        return;
    }
    default:
        other_frames++;
    }
}

/* Takes the answer to the upgrade off the front of `bytes`. Returns its length; 0: not all here, or refused. */
static size_t take_upgrade(struct client *client, const uint8_t *bytes, size_t length)
{
    const uint8_t *end = memmem(bytes, length, "\r\n\r\n", 4);
    if (!end)
        return 0;
    size_t head = (size_t)(end - bytes) + 4;
    if (strncmp((const char *)bytes, "HTTP/1.1 101", 12) || !memmem(bytes, head, WIRE_ACCEPT, strlen(WIRE_ACCEPT))) {
        char why[120];
        snprintf(why, sizeof why, "upgrade refused: %.*s", (int)strcspn((const char *)bytes, "\r"), (const char *)bytes);
        lose(client, why);
        return 0;
    }
    char text[2048];
    int n = snprintf(text, sizeof text, "{\"type\":\"authenticate\",\"token\":\"%s\"}", client->token);
    put_frame(client, OP_TEXT, text, (size_t)n);
    client->state = AUTHENTICATING;
    return head;
}

/* Handles every whole frame in the bytes and returns how many bytes that took. */
static size_t take_frames(struct client *client, uint8_t *bytes, size_t length, uint64_t now)
{
    size_t taken = 0;
    struct frame frame;
    if (client->state == UPGRADING && !(taken = take_upgrade(client, bytes, length)))
        return 0;
    while (client->state != LOST && wire_read_frame(bytes + taken, length - taken, &frame)) {
        on_frame(client, &frame, now);
        taken += frame.whole;
    }
    return taken;
}

static void on_readable(struct client *client)
{
    struct buffer *in = &client->in;
    ssize_t n = recv(client->fd, read_buffer, READ_BYTES, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        lose(client, n ? strerror(errno) : "the server closed the connection");
        return;
    }
    uint64_t now = now_ns();
    bytes_received += (uint64_t)n;
    uint8_t *bytes = read_buffer;
    size_t length = (size_t)n;
    if (in->end > in->start) { /* the rest of a frame whose beginning came earlier */
        buffer_reserve(in, length);
        memcpy(in->bytes + in->end, read_buffer, length);
        in->end += length;
        bytes = in->bytes + in->start;
        length = in->end - in->start;
    }
    size_t taken = take_frames(client, bytes, length, now);
    if (bytes != read_buffer) {
        in->start += taken;
    } else if (taken < length) {
        buffer_reserve(in, length - taken);
        memcpy(in->bytes + in->end, bytes + taken, length - taken);
        in->end += length - taken;
    }
    if (in->end - in->start > LARGEST_MESSAGE)
        lose(client, "the server sent a message that never ends");
    if (client->out.end > client->out.start)
        flush(client);
}

/* ---- connecting --------------------------------------------------------------------------------------------- */

static void start_connecting(struct client *client, const struct sockaddr_in *address)
{
    client->started = now_ns();
    client->state = CONNECTING;
    handshake_count++;
    client->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (client->fd < 0)
        fail("socket: %s", strerror(errno));
    int yes = 1;
    setsockopt(client->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    watch(client, 1, EPOLL_CTL_ADD);
    if (connect(client->fd, (const struct sockaddr *)address, sizeof *address) && errno != EINPROGRESS)
        lose(client, strerror(errno));
}

static void on_connected(struct client *client)
{
    int error = 0;
    socklen_t length = sizeof error;
    getsockopt(client->fd, SOL_SOCKET, SO_ERROR, &error, &length);
    if (error) {
        lose(client, strerror(error));
        return;
    }
    buffer_reserve(&client->out, 512);
    client->out.end += (size_t)sprintf((char *)client->out.bytes + client->out.end,
                                       "GET / HTTP/1.1\r\nHost: %s:%d\r\nUpgrade: websocket\r\n"
                                       "Connection: Upgrade\r\nSec-WebSocket-Key: " WIRE_KEY "\r\n"
                                       "Sec-WebSocket-Version: 13\r\n\r\n",
                                       host, (int)port);
    client->state = UPGRADING;
    flush(client);
}

/* ---- the loop ----------------------------------------------------------------------------------------------- */

/* Waits for events, not beyond `until`, and handles them. */
static void poll_once(uint64_t until)
{
    static struct epoll_event events[1024];
    uint64_t now = now_ns();
    if (now >= next_tick)
        tick(now);
    uint64_t wake = until < next_tick ? until : next_tick, patience = wake > now ? wake - now : 0;
    struct timespec timeout = {.tv_sec = (time_t)(patience / SECOND), .tv_nsec = (long)(patience % SECOND)};
    int n = epoll_pwait2(epoll_fd, events, 1024, &timeout, NULL);
    if (n < 0 && errno != EINTR)
        fail("epoll_pwait2: %s", strerror(errno));
    for (int i = 0; i < n; i++) {
        struct client *client = events[i].data.ptr;
        if (client->state == CONNECTING) {
            on_connected(client);
            continue;
        }
        if (client->state != LOST && events[i].events & EPOLLOUT)
            flush(client);
        if (client->state != LOST && events[i].events & ~(uint32_t)EPOLLOUT)
            on_readable(client);
    }
}

static void poll_for(const char *name, double length_s)
{
    begin_phase(name, length_s);
    for (uint64_t end = phase_begin + phase_length; now_ns() < end;)
        poll_once(end);
}

static void begin_window(void)
{
    begin_phase("measure", seconds);
    dprintf(2, "mark begin\n");
    window_begin = now_ns();
    window_end = window_begin + phase_length;
    window_seconds = 0;
    window_cpu_seconds = -cpu_seconds();
    is_measuring = 1;
}

static void end_window(void)
{
    uint64_t now = now_ns();
    is_measuring = 0;
    window_cpu_seconds += cpu_seconds();
    window_seconds = (double)(now - window_begin) / 1e9;
    window_end = now;
    dprintf(2, "mark end\n");
}

static void connect_all(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    if (inet_pton(AF_INET, host, &address.sin_addr) != 1 || ntohl(address.sin_addr.s_addr) >> 24 != 127)
        fail("%s is not a loopback address: the generator talks to 127.0.0.0/8 only", host);
    begin_phase("connect", 0);
    uint64_t begin = now_ns(), end = begin + (uint64_t)(connect_limit * 1e9);
    for (size_t next = 0; live_count + failed_count + lost_count < client_count && now_ns() < end;) {
        while (next < client_count && handshake_count < (size_t)handshakes)
            start_connecting(&clients[next++], &address);
        if (next == client_count || handshake_count)
            poll_once(end);
    }
    connect_seconds = (double)(now_ns() - begin) / 1e9;
    for (size_t i = 0; i < client_count; i++)
        if (clients[i].state == LIVE)
            clients[i].room->live++;
        else if (clients[i].state != WAITING)
            lose(&clients[i], "not authenticated in time");
    if (!live_count)
        fail("no connection was authenticated: %s", *first_failure ? first_failure : "none was tried");
}

static int is_complete(void)
{
    return acknowledged + refused >= sent && delivered >= expected;
}

static void wait_for_the_rest(void)
{
    begin_phase("drain", drain);
    uint64_t begin = now_ns(), end = begin + (uint64_t)(drain * 1e9);
    while (!is_complete() && now_ns() < end)
        poll_once(end);
    drain_seconds = (double)(now_ns() - begin) / 1e9;
}

/* ---- the modes ---------------------------------------------------------------------------------------------- */

static void run_throughput(void)
{
    rate = 0; /* deliveries are counted, not timed */
    begin_phase("warm-up", warmup);
    is_sending = 1;
    for (size_t i = 0; i < (size_t)senders; i++) {
        struct client *client = &clients[i * client_count / (size_t)senders];
        if (client->state != LIVE)
            continue;
        for (size_t n = 0; n < (size_t)depth; n++)
            put_message(client, now_ns());
        flush(client);
    }
    for (uint64_t end = phase_begin + phase_length; now_ns() < end;)
        poll_once(end);
    begin_window();
    for (uint64_t end = window_end; now_ns() < end;)
        poll_once(end);
    end_window();
    is_sending = 0;
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
    uint64_t begin = *due, interval = (uint64_t)(1e9 / rate), messages = (uint64_t)(rate * length_s);
    for (uint64_t i = 0; i < messages;) {
        uint64_t now = now_ns();
        for (; i < messages && *due <= now; *due = begin + ++i * interval) {
            struct client *client = &clients[*next];
            *next = (*next + step) % client_count;
            if (client->state != LIVE)
                continue;
            if (is_measuring && now - *due > largest_send_lag)
                largest_send_lag = now - *due;
            put_message(client, *due);
            flush(client);
        }
        poll_once(*due);
    }
}

static void run_steady(void)
{
    size_t next = 0;
    begin_phase("warm-up", warmup);
    uint64_t due = phase_begin;
    send_steadily(&due, warmup, &next);
    begin_window();
    window_begin = due; /* if the last messages of the warm-up were late, the first measured ones are late too */
    window_end = due + phase_length;
    send_steadily(&due, seconds, &next);
    uint64_t end = window_end;
    end_window();
    window_end = end;
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
        uint64_t wanted = delivered + client->room->live, patience = begin + (uint64_t)(drain * 1e9);
        put_message(client, begin);
        flush(client);
        while (delivered < wanted && now_ns() < patience)
            poll_once(patience);
        if (delivered < wanted)
            return;
        if (is_measuring)
            histogram_add(&round_times, now_ns() - begin);
    }
}

static void run_fanout(void)
{
    rate = 0;
    begin_phase("warm-up", warmup);
    send_rounds(phase_begin + phase_length);
    begin_window();
    send_rounds(window_end);
    end_window();
    wait_for_the_rest();
}

static void run_idle(void)
{
    dprintf(2, "mark idle-begin\n");
    poll_for("idle", idle);
    dprintf(2, "mark idle-end\n");
}

/* ---- in and out --------------------------------------------------------------------------------------------- */

static struct room *room_named(char *id)
{
    ENTRY wanted = {.key = id}, *found = hsearch(wanted, FIND);
    if (!found) {
        wanted.data = calloc(1, sizeof(struct room));
        found = hsearch(wanted, ENTER);
        if (!found || !found->data)
            fail("out of memory");
    }
    return found->data;
}

static void read_clients(void)
{
    FILE *file = fopen(clients_file, "r");
    if (!file)
        fail("%s: %s", clients_file, strerror(errno));
    char token[1500], room_id[100];
    size_t capacity = 0;
    while ((!connections || client_count < (size_t)connections) && fscanf(file, "%1499s %99s %*s", token, room_id) == 2) {
        if (client_count == capacity) {
            capacity = capacity ? capacity * 2 : 1024;
            clients = grown(clients, capacity * sizeof *clients);
        }
        clients[client_count++] = (struct client){.fd = -1, .token = strdup(token), .room_id = strdup(room_id)};
    }
    fclose(file);
    if (!client_count)
        fail("%s has no line 'token roomId userId'", clients_file);
    if (!hcreate(client_count * 2))
        fail("out of memory");
    for (size_t i = 0; i < client_count; i++)
        clients[i].room = room_named(clients[i].room_id);
}

static void read_flags(int argc, char **argv)
{
    if (argc < 2 || argv[1][0] == '-') {
        fprintf(stderr, "usage: generator throughput|steady|connect|fanout --port PORT --clients FILE [flags]\n");
        for (size_t i = 0; i < OPTIONS; i++)
            fprintf(stderr, "  %-16s %s\n", options[i].flag, options[i].meaning);
        exit(2);
    }
    mode = argv[1];
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
    if (!port || !clients_file)
        fail("--port and --clients are needed");
    if (content_bytes > LARGEST_CONTENT || handshakes < 1 || rate < 1)
        fail("--content-bytes is at most %d; --handshakes and --rate are at least 1", LARGEST_CONTENT);
}

static void print_text(const char *name, const char *text)
{
    printf(", \"%s\": \"", name);
    for (; *text; text++)
        if (*text == '"' || *text == '\\')
            printf("\\%c", *text);
        else if ((unsigned char)*text < 32 || (unsigned char)*text > 126)
            putchar('?');
        else
            putchar(*text);
    putchar('"');
}

static void print_times(const char *name, const struct histogram *times)
{
    printf(", \"%s\": ", name);
    histogram_print(stdout, times);
}

static void print_report(void)
{
    uint64_t missing = 0, surplus = 0;
    for (size_t i = 0; i < client_count; i++) {
        uint64_t due = clients[i].state == WAITING || !clients[i].room->live ? 0 : clients[i].room->acknowledged;
        if (clients[i].received < due)
            missing += due - clients[i].received;
        else
            surplus += clients[i].received - due;
    }
    double behind = last_arrival > window_end && window_end ? (double)(last_arrival - window_end) / 1e9 : 0;
    printf("{\"mode\": \"%s\", \"connections\": %zu, \"live\": %zu, \"failed\": %zu, \"lost\": %zu", mode, client_count,
           live_count, failed_count, lost_count);
    printf(", \"connect_seconds\": %.4f, \"window_seconds\": %.6f, \"cpu_seconds\": %.6f", connect_seconds,
           window_seconds, window_cpu_seconds);
    printf(", \"window\": {\"sent\": %llu, \"acknowledged\": %llu, \"delivered\": %llu}",
           (unsigned long long)window_sent, (unsigned long long)window_acknowledged,
           (unsigned long long)window_delivered);
    double over = window_seconds > 0 ? window_seconds : 1;
    printf(", \"messages_per_s\": %.1f, \"deliveries_per_s\": %.1f", (double)window_acknowledged / over,
           (double)window_delivered / over);
    printf(", \"sent\": %llu, \"acknowledged\": %llu, \"refused\": %llu, \"delivered\": %llu, \"other_frames\": %llu",
           (unsigned long long)sent, (unsigned long long)acknowledged, (unsigned long long)refused,
           (unsigned long long)delivered, (unsigned long long)other_frames);
    printf(", \"unacknowledged\": %llu, \"missing\": %llu, \"surplus\": %llu, \"bytes_received\": %llu",
           (unsigned long long)(sent - acknowledged - refused), (unsigned long long)missing,
           (unsigned long long)surplus, (unsigned long long)bytes_received);
    printf(", \"drain_seconds\": %.4f, \"behind_seconds\": %.4f, \"send_lag_max_us\": %.1f", drain_seconds, behind,
           (double)largest_send_lag / 1e3);
    print_text("first_failure", first_failure);
    print_text("first_refusal", first_refusal);
    print_text("first_loss", first_loss);
    print_times("handshake_times", &handshake_times);
    print_times("ack_times", &ack_times);
    print_times("delivery_times", &delivery_times);
    print_times("round_times", &round_times);
    printf("}\n");
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } modes[] = {{"throughput", run_throughput}, {"steady", run_steady}, {"connect", run_idle}, {"fanout", run_fanout}};
    read_flags(argc, argv);
    size_t chosen = 0;
    while (chosen < 4 && strcmp(mode, modes[chosen].name))
        chosen++;
    if (chosen == 4)
        fail("%s: the modes are throughput, steady, connect and fanout", mode);
    prctl(PR_SET_TIMERSLACK, 1);
    alarm((unsigned)(connect_limit + warmup + seconds + drain * 3 + idle + 30)); /* whatever happens, it ends */
    read_clients();
    if (senders > (double)client_count)
        senders = (double)client_count;
    const char words[] = "the quick brown fox jumps over the lazy dog and is not seen again ";
    for (size_t i = 0; i < LARGEST_CONTENT; i++)
        filler[i] = words[i % (sizeof words - 1)];
    read_buffer = grown(NULL, READ_BYTES);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);

    if (modes[chosen].run == run_idle)
        begin_window();
    connect_all();
    if (modes[chosen].run == run_idle)
        end_window();
    modes[chosen].run();
    print_report();
    return 0;
}
