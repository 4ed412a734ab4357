/* Thousands of WebSocket clients on one epoll: connecting, the upgrade, frames in and out. What the frames mean is
 * talk.c's. Reads go into one shared buffer; a client keeps bytes of its own only while a frame is half here. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "generator.h"
#include "wire.h"

#define READ_BYTES (1 << 20)
#define LARGEST_MESSAGE (8 << 20)
#define STORM_STEP (SECOND / 200) /* between two looks at who may come back */
#define SLOW_BUFFER 4096 /* of those who do not read, so that what they are sent soon waits in the server */
#define EVENTS_AT_ONCE 64 /* few, so that what is due meanwhile leaves on time */

struct client *clients;
size_t client_count;
static int epoll_fd = -1;
static uint8_t read_buffer[READ_BYTES];
static struct sockaddr_in server_address; /* the port is each client's own */

/* ---- sending */

void *grown(void *memory, size_t bytes)
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

void ignore(struct client *client)
{
    epoll_ctl(epoll_fd, EPOLL_CTL_DEL, client->fd, NULL);
}

static int is_gone(const struct client *client)
{
    return client->state == LOST || client->state == AWAY;
}

static void turn_away(struct client *client, const char *why, double retry_after_s)
{
    if (is_gone(client))
        return;
    note(client, "ends", "{}", 2);
    if (is_storming) {
        close(client->fd);
        note_once(counts.first_failure, why, strlen(why));
        leave_for_now(client, retry_after_s);
        return;
    }
    if (client->state == LIVE) {
        counts.lost++;
        note_once(counts.first_loss, why, strlen(why));
    } else {
        counts.failed++;
        counts.in_handshake--;
        note_once(counts.first_failure, why, strlen(why));
    }
    close(client->fd);
    client->state = LOST;
}

void lose(struct client *client, const char *why)
{
    turn_away(client, why, 0);
}

void flush(struct client *client)
{
    struct buffer *out = &client->out;
    if (is_gone(client))
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

void put_frame(struct client *client, unsigned opcode, const void *payload, size_t length)
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

/* ---- receiving */

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
        counts.other_frames++;
    }
}

/* Takes the answer to the upgrade off the front of `bytes`. Returns its length; 0: not all here, or refused. */
static size_t take_upgrade(struct client *client, uint8_t *bytes, size_t length)
{
    uint8_t *end = memmem(bytes, length, "\r\n\r\n", 4);
    if (!end)
        return 0;
    size_t head = (size_t)(end - bytes) + 4;
    if (strncmp((const char *)bytes, "HTTP/1.1 101", 12) || !memmem(bytes, head, WIRE_ACCEPT, strlen(WIRE_ACCEPT))) {
        char why[120];
        snprintf(why, sizeof why, "upgrade refused: %.*s", (int)strcspn((char *)bytes, "\r"), (char *)bytes);
        const uint8_t *retry = memmem(bytes, head, "Retry-After: ", 13);
        turn_away(client, why, retry ? strtod((const char *)retry + 13, NULL) : 0);
        return 0;
    }
    client->state = AUTHENTICATING;
    if (is_authenticating_at_once())
        put_authentication(client);
    return head;
}

/* Handles every whole frame in the bytes and returns how many bytes that took. */
static size_t take_frames(struct client *client, uint8_t *bytes, size_t length, uint64_t now)
{
    size_t taken = 0;
    struct frame frame;
    if (client->state == UPGRADING && !(taken = take_upgrade(client, bytes, length)))
        return 0;
    while (!is_gone(client) && wire_read_frame(bytes + taken, length - taken, &frame)) {
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
    counts.bytes_received += (uint64_t)n;
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

/* ---- connecting */

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

void read_clients(void)
{
    FILE *file = fopen(settings.clients_file, "r");
    if (!file)
        fail("%s: %s", settings.clients_file, strerror(errno));
    char token[1500], room_id[100], user_id[100];
    size_t capacity = 0;
    size_t most = settings.connections > 0 ? (size_t)settings.connections : SIZE_MAX;
    while (client_count < most && fscanf(file, "%1499s %99s %99s", token, room_id, user_id) == 3) {
        if (client_count == capacity) {
            capacity = capacity ? capacity * 2 : 1024;
            clients = grown(clients, capacity * sizeof *clients);
        }
        clients[client_count++] = (struct client){
            .fd = -1, .token = strdup(token), .room_id = strdup(room_id), .user_id = strdup(user_id)};
    }
    fclose(file);
    if (!client_count)
        fail("%s has no line 'token roomId userId'", settings.clients_file);
    if (!hcreate(client_count * 2))
        fail("out of memory");
    for (size_t i = 0; i < client_count; i++)
        clients[i].room = room_named(clients[i].room_id);
}

static uint16_t port_of(const struct client *client)
{
    return settings.ports[(size_t)(client - clients) % settings.port_count];
}

void start_connecting(struct client *client)
{
    struct sockaddr_in address = server_address;
    address.sin_port = htons(port_of(client));
    client->started = now_ns();
    client->state = CONNECTING;
    client->stays++;
    note(client, "opens", "{}", 2);
    counts.in_handshake++;
    client->in.start = client->in.end = client->out.start = client->out.end = 0;
    client->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (client->fd < 0)
        fail("socket: %s", strerror(errno));
    int yes = 1;
    setsockopt(client->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    int few = SLOW_BUFFER;
    if (client->is_slow)
        setsockopt(client->fd, SOL_SOCKET, SO_RCVBUF, &few, sizeof few);
    watch(client, 1, EPOLL_CTL_ADD);
    if (connect(client->fd, (const struct sockaddr *)&address, sizeof address) && errno != EINPROGRESS)
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
                                       "GET %s HTTP/1.1\r\nHost: %s:%d\r\nUpgrade: websocket\r\n"
                                       "Connection: Upgrade\r\nSec-WebSocket-Key: " WIRE_KEY "\r\n"
                                       "Sec-WebSocket-Version: 13\r\n\r\n",
                                       upgrade_target(), settings.host, (int)port_of(client));
    client->state = UPGRADING;
    flush(client);
}

void connect_all(void)
{
    server_address.sin_family = AF_INET;
    if (inet_pton(AF_INET, settings.host, &server_address.sin_addr) != 1 ||
        ntohl(server_address.sin_addr.s_addr) >> 24 != 127)
        fail("%s is not a loopback address: the generator talks to 127.0.0.0/8 only", settings.host);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    uint64_t end = now_ns() + (uint64_t)(settings.connect_limit * 1e9);
    for (size_t next = 0; counts.live + counts.failed + counts.lost < client_count && now_ns() < end;) {
        while (next < client_count && counts.in_handshake < (size_t)settings.handshakes)
            start_connecting(&clients[next++]);
        if (next == client_count || counts.in_handshake)
            poll_once(end);
    }
    for (size_t i = 0; i < client_count; i++)
        if (clients[i].state == LIVE)
            clients[i].room->live++;
        else if (clients[i].state != WAITING)
            lose(&clients[i], "not authenticated in time");
    if (!counts.live)
        fail("no connection was authenticated: %s", *counts.first_failure ? counts.first_failure : "none was tried");
}

/* ---- the loop */

void poll_once(uint64_t until)
{
    struct epoll_event events[EVENTS_AT_ONCE];
    uint64_t now = now_ns();
    report_progress_if_due(now);
    uint64_t wake = until < next_progress() ? until : next_progress();
    if (is_storming || is_coming_back) {
        come_back(now);
        wake = wake < now + STORM_STEP ? wake : now + STORM_STEP;
    }
    uint64_t patience = wake > now ? wake - now : 0;
    struct timespec timeout = {.tv_sec = (time_t)(patience / SECOND), .tv_nsec = (long)(patience % SECOND)};
    if (is_deaf) {
        nanosleep(&timeout, NULL);
        return;
    }
    int n = epoll_pwait2(epoll_fd, events, EVENTS_AT_ONCE, &timeout, NULL);
    if (n < 0 && errno != EINTR)
        fail("epoll_pwait2: %s", strerror(errno));
    for (int i = 0; i < n; i++) {
        struct client *client = events[i].data.ptr;
        if (client->state == CONNECTING) {
            on_connected(client);
            continue;
        }
        if (!is_gone(client) && events[i].events & EPOLLOUT)
            flush(client);
        if (!is_gone(client) && events[i].events & ~(uint32_t)EPOLLOUT)
            on_readable(client);
    }
}
