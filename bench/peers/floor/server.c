/* The floor: what sending costs when a server does nothing else.
 *
 *   server PORT
 *
 * Speaks just enough to be measured by the generator: it answers the upgrade (the generator's one key), any
 * `authenticate`, and for each `send_message` sends one ready-made frame to the sender (message_ack) and one to every
 * authenticated connection (new_message), by one `send` each. No rooms, no tokens, no JSON, no database, no queue: a
 * connection whose socket is full is closed. One thread, epoll, 127.0.0.1 only.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../../generator/wire.h"

#define MOST_CONNECTIONS 20000
#define READ_BYTES 65536

static const char accepted[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                               "Sec-WebSocket-Accept: " WIRE_ACCEPT "\r\n\r\n";
static const char authenticated[] = "{\"type\":\"authenticated\"}";
static const char message_ack[] = "{\"type\":\"message_ack\",\"messageId\":\"0198a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b\","
                                  "\"roomId\":\"0198a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5c\",\"seq\":1000,"
                                  "\"createdAt\":\"2026-01-31T12:00:00.123Z\",\"duplicate\":false}";
/* As long as a new_message of chatd with a content of 64 characters. */
static const char new_message[] =
    "{\"type\":\"new_message\",\"message\":{\"id\":\"0198a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b\","
    "\"roomId\":\"0198a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5c\",\"seq\":1000,"
    "\"senderId\":\"0198a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5d\",\"senderName\":\"user00001\",\"messageType\":\"text\","
    "\"content\":\"0000000000000000000000 the quick brown fox jumps over the lazy \","
    "\"createdAt\":\"2026-01-31T12:00:00.123Z\",\"clientMessageId\":\"0000000000000000000000000\"}}";

struct connection {
    int fd;
    int is_upgraded;
    unsigned member; /* its place among the members, 0: not authenticated */
    size_t waiting;
    uint8_t bytes[4096];
};

static struct connection *members[MOST_CONNECTIONS + 1];
static unsigned member_count;
static uint8_t delivery_frame[1024];
static size_t delivery_length;

static void leave(struct connection *connection)
{
    close(connection->fd);
    if (connection->member) {
        members[connection->member] = members[member_count--];
        members[connection->member]->member = connection->member;
    }
    free(connection);
}

static void send_text(struct connection *connection, const char *text, size_t length)
{
    uint8_t frame[1024];
    size_t n = wire_write_frame(frame, OP_TEXT, text, length, NULL);
    if (send(connection->fd, frame, n, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)n)
        shutdown(connection->fd, SHUT_RDWR);
}

static void on_text(struct connection *connection, const struct frame *frame)
{
    if (memmem(frame->payload, frame->length, "\"authenticate\"", 14)) {
        if (!connection->member && member_count < MOST_CONNECTIONS) {
            connection->member = ++member_count;
            members[member_count] = connection;
        }
        send_text(connection, authenticated, sizeof authenticated - 1);
    } else if (memmem(frame->payload, frame->length, "\"send_message\"", 14)) {
        send_text(connection, message_ack, sizeof message_ack - 1);
        for (unsigned i = 1; i <= member_count; i++)
            if (send(members[i]->fd, delivery_frame, delivery_length, MSG_NOSIGNAL | MSG_DONTWAIT) !=
                (ssize_t)delivery_length)
                shutdown(members[i]->fd, SHUT_RDWR); /* its next read ends it */
    }
}

static void on_readable(struct connection *connection)
{
    uint8_t *bytes = connection->bytes;
    ssize_t n = recv(connection->fd, bytes + connection->waiting, sizeof connection->bytes - connection->waiting, 0);
    if (n <= 0) {
        if (n == 0 || (errno != EAGAIN && errno != EINTR))
            leave(connection);
        return;
    }
    size_t length = connection->waiting + (size_t)n, taken = 0;
    if (!connection->is_upgraded) {
        uint8_t *end = memmem(bytes, length, "\r\n\r\n", 4);
        if (end) {
            taken = (size_t)(end - bytes) + 4;
            connection->is_upgraded = 1;
            if (send(connection->fd, accepted, sizeof accepted - 1, MSG_NOSIGNAL) < 0)
                shutdown(connection->fd, SHUT_RDWR);
        }
    }
    struct frame frame;
    while (connection->is_upgraded && wire_read_frame(bytes + taken, length - taken, &frame)) {
        if (frame.opcode == OP_TEXT)
            on_text(connection, &frame);
        taken += frame.whole;
    }
    connection->waiting = length - taken;
    memmove(bytes, bytes + taken, connection->waiting);
    if (connection->waiting == sizeof connection->bytes)
        leave(connection); /* a frame larger than the generator ever sends */
}

static int listen_on(int port)
{
    int yes = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 4096)) {
        perror("floor");
        exit(1);
    }
    return fd;
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: server PORT\n");
        return 2;
    }
    delivery_length = wire_write_frame(delivery_frame, OP_TEXT, new_message, sizeof new_message - 1, NULL);
    int listener = listen_on(atoi(argv[1])), poll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN}, events[256];
    epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int n = epoll_wait(poll, events, 256, -1);
        for (int i = 0; i < n; i++) {
            if (events[i].data.ptr) {
                on_readable(events[i].data.ptr);
                continue;
            }
            int yes = 1, fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
            struct connection *connection = fd < 0 ? NULL : calloc(1, sizeof *connection);
            if (!connection)
                continue;
            connection->fd = fd;
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
            event = (struct epoll_event){.events = EPOLLIN, .data.ptr = connection};
            epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event);
        }
    }
}
