/* How servers are talked to. chatd's own protocol is what most peers speak; Socket.IO and Centrifugo have one of their own
 * (peers/socketio, peers/centrifugo), which is brought here to the same few kinds. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "generator.h"
#include "wire.h"

#define FIRST_PUBLICATION 3 /* Centrifugo: 1 connects, 2 subscribes */

static enum { CHATD, SOCKETIO, CENTRIFUGO } dialect;

static const struct {
    const char *name, *target;
} dialects[] = {
    [CHATD] = {"chatd", "/"},
    [SOCKETIO] = {"socketio", "/socket.io/?EIO=4&transport=websocket"},
    [CENTRIFUGO] = {"centrifugo", "/connection/websocket"},
};

void choose_dialect(void)
{
    for (size_t i = 0; i < sizeof dialects / sizeof *dialects; i++)
        if (!strcmp(settings.dialect, dialects[i].name)) {
            dialect = i;
            return;
        }
    fail("--dialect %s: there are chatd, socketio and centrifugo", settings.dialect);
}

const char *upgrade_target(void)
{
    return dialects[dialect].target;
}

/* ---- what is said */

size_t write_authentication(char *text, size_t size, const struct client *client, const char *token, const char *resume)
{
    const char *with = *token ? "," : "", *open = *token ? "\"token\":\"" : "", *close = *token ? "\"" : "";
    switch (dialect) {
    case SOCKETIO:
        return (size_t)snprintf(text, size, "40{%s%s%s}", open, token, close);
    case CENTRIFUGO:
        return (size_t)snprintf(text, size,
                                "{\"id\":1,\"connect\":{%s%s%s}}\n{\"id\":2,\"subscribe\":{\"channel\":\"%s\"}}", open,
                                token, close, client->room_id);
    default:
        return (size_t)snprintf(text, size, "{\"type\":\"authenticate\"%s%s%s%s%s}", with, open, token, close, resume);
    }
}

int is_authenticating_at_once(void)
{
    return dialect != SOCKETIO; /* there the server has the first word */
}

size_t write_message(char *text, size_t size, const struct client *client, const char *content, const char *key)
{
    unsigned long long number = client->sent;
    switch (dialect) {
    case SOCKETIO:
        return (size_t)snprintf(text, size,
                                "42%llu[\"send_message\",{\"roomId\":\"%s\",\"content\":\"%s\",\"clientMessageId\":\"%s\"}]",
                                number, client->room_id, content, key);
    case CENTRIFUGO:
        return (size_t)snprintf(text, size,
                                "{\"id\":%llu,\"publish\":{\"channel\":\"%s\",\"data\":{\"content\":\"%s\"}}}",
                                number + FIRST_PUBLICATION, client->room_id, content);
    default:
        return (size_t)snprintf(text, size,
                                "{\"type\":\"send_message\",\"roomId\":\"%s\",\"content\":\"%s\",\"clientMessageId\":\"%s\"}",
                                client->room_id, content, key);
    }
}

size_t write_ping(char *text, size_t size, const struct client *client)
{
    if (dialect == SOCKETIO)
        return (size_t)snprintf(text, size, "42%llu[\"ping_me\"]", (unsigned long long)client->sent);
    return (size_t)snprintf(text, size, "{\"type\":\"ping\"}");
}

/* ---- what is heard */

static int begins(const uint8_t *payload, size_t length, const char *with)
{
    return length >= strlen(with) && !memcmp(payload, with, strlen(with));
}

static enum kind kind_by_type(const uint8_t *payload, size_t length)
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
    if (IS("pong"))
        return MESSAGE_ACK;
    if (IS("error") || IS("auth_error"))
        return REFUSED;
    if (IS("caught_up"))
        return CAUGHT_UP;
    if (IS("resync"))
        return RESYNC;
    return IS("authenticated") ? AUTHENTICATED : OTHER;
#undef IS
}

static enum kind kind_in_socketio(const uint8_t *payload, size_t length)
{
    if (begins(payload, length, "42[\"new_message\""))
        return NEW_MESSAGE;
    if (begins(payload, length, "43"))
        return memmem(payload, length < 40 ? length : 40, "\"error\":", 8) ? REFUSED : MESSAGE_ACK;
    if (begins(payload, length, "40"))
        return AUTHENTICATED;
    if (begins(payload, length, "44"))
        return REFUSED;
    if (begins(payload, length, "0"))
        return GREETING;
    return begins(payload, length, "2") && length == 1 ? BEAT : OTHER;
}

static enum kind kind_in_centrifugo(const uint8_t *payload, size_t length)
{
    if (begins(payload, length, "{\"push\":"))
        return memmem(payload, length, "\"pub\":", 6) ? NEW_MESSAGE : OTHER;
    if (length <= 2)
        return BEAT;
    if (memmem(payload, length, "\"error\":", 8))
        return REFUSED;
    if (begins(payload, length, "{\"id\":2,"))
        return AUTHENTICATED;
    return begins(payload, length, "{\"id\":1,") ? OTHER : MESSAGE_ACK;
}

enum kind kind_of(const uint8_t *payload, size_t length)
{
    switch (dialect) {
    case SOCKETIO:
        return kind_in_socketio(payload, length);
    case CENTRIFUGO:
        return kind_in_centrifugo(payload, length);
    default:
        return kind_by_type(payload, length);
    }
}

void answer_beat(struct client *client)
{
    const char *answer = dialect == SOCKETIO ? "3" : "{}";
    put_frame(client, OP_TEXT, answer, strlen(answer));
}

/* The length of the first message in the payload: Centrifugo puts several into a frame, a line each. */
size_t first_message(const uint8_t *payload, size_t length)
{
    const uint8_t *line_end = dialect == CENTRIFUGO ? memchr(payload, '\n', length) : NULL;
    return line_end ? (size_t)(line_end - payload) : length;
}
