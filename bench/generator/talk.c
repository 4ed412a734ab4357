/* What the clients say and hear: authentication, chat messages that carry the time at which they were due, and what is
 * counted and timed of the answers. Finds what it needs in the JSON without parsing it: `type` first, one marker. */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>

#include "generator.h"
#include "wire.h"

#define MARKER "~T~" /* before the 19 digits of the time at which a message was due */
#define MARKER_DIGITS 19

struct counts counts;
int is_echoing, is_answering, is_timing_delivery;
static char filler[LARGEST_CONTENT + 1];
static char epoch[100];

void prepare_talk(void)
{
    const char words[] = "the quick brown fox jumps over the lazy dog and is not seen again ";
    for (size_t i = 0; i < LARGEST_CONTENT; i++)
        filler[i] = words[i % (sizeof words - 1)];
}

void put_authentication(struct client *client)
{
    char text[2048], resume[512] = "";
    if (is_storming)
        snprintf(resume, sizeof resume, ",\"resume\":{\"epoch\":\"%s\",\"rooms\":{\"%s\":%llu}}", epoch, client->room_id,
                 (unsigned long long)client->seq);
    size_t n = write_authentication(text, sizeof text, client, "", resume);
    note(client, "sent", text, n); /* whoever has the log is not to have the token */
    n = write_authentication(text, sizeof text, client, client->token, resume);
    put_frame(client, OP_TEXT, text, n);
}

static void count_sent(struct client *client)
{
    client->sent++;
    counts.sent++;
    if (window.is_open)
        window.sent++;
}

static void put_ping(struct client *client, uint64_t due)
{
    char text[100];
    client->asked = due;
    put_frame(client, OP_TEXT, text, write_ping(text, sizeof text, client));
    count_sent(client);
}

void put_message(struct client *client, uint64_t due)
{
    if (is_echoing) {
        put_ping(client, due);
        return;
    }
    char text[LARGEST_CONTENT + 512], content[LARGEST_CONTENT + 64], key[100];
    int stamp_length = (int)strlen(MARKER) + MARKER_DIGITS + 1;
    int filling = (int)settings.content_bytes > stamp_length ? (int)settings.content_bytes - stamp_length : 0;
    snprintf(content, sizeof content, MARKER "%0*llu %.*s", MARKER_DIGITS, (unsigned long long)due, filling, filler);
    snprintf(key, sizeof key, MARKER "%0*llu-%llu", MARKER_DIGITS, (unsigned long long)due,
             (unsigned long long)client->sent);
    size_t length = write_message(text, sizeof text, client, content, key);
    note(client, "sent", text, length);
    put_frame(client, OP_TEXT, text, length);
    count_sent(client);
}

void note_once(char *note, const void *text, size_t length)
{
    if (!*note)
        snprintf(note, NOTE_BYTES, "%.*s", (int)(length < NOTE_BYTES ? length : NOTE_BYTES), (const char *)text);
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

/* The number behind `name`, as in "seq":5; 0: there is none. */
static uint64_t number_of(const uint8_t *payload, size_t length, const char *name)
{
    const uint8_t *found = memmem(payload, length, name, strlen(name)), *end = payload + length;
    uint64_t number = 0;
    if (found)
        for (found += strlen(name); found < end && *found >= '0' && *found <= '9'; found++)
            number = number * 10 + (uint64_t)(*found - '0');
    return number;
}

static void keep_epoch(const uint8_t *payload, size_t length)
{
    static const char name[] = "\"epoch\":\"";
    const uint8_t *found = memmem(payload, length, name, sizeof name - 1);
    if (!found)
        return;
    found += sizeof name - 1;
    const uint8_t *end = memchr(found, '"', (size_t)(payload + length - found));
    if (end && (size_t)(end - found) < sizeof epoch)
        snprintf(epoch, sizeof epoch, "%.*s", (int)(end - found), (const char *)found);
}

static int is_measured(uint64_t due)
{
    return due >= window.begin && due < window.end;
}

static void on_acknowledged(struct client *client, const uint8_t *payload, size_t length, uint64_t now)
{
    static size_t usual_place;
    counts.acknowledged++;
    client->answered++;
    if (is_following) {
        uint64_t seq = number_of(payload, length, "\"seq\":");
        if (client->room->seq < seq)
            client->room->seq = seq;
    }
    if (!is_echoing) {
        client->room->acknowledged++;
        counts.expected += client->room->live;
    }
    counts.last_arrival = now;
    if (window.is_open)
        window.acknowledged++;
    uint64_t due = is_echoing ? client->asked : due_of(payload, length, &usual_place);
    if (is_measured(due))
        histogram_add(&counts.ack_times, now - due);
    if (is_answering)
        put_message(client, now);
}

static void on_delivered(struct client *client, const uint8_t *payload, size_t length, uint64_t now)
{
    static size_t usual_place;
    counts.delivered++;
    client->received++;
    if (is_following)
        follow(client, number_of(payload, length, "\"seq\":"));
    counts.last_arrival = now;
    if (window.is_open)
        window.delivered++;
    if (is_timing_delivery) {
        uint64_t due = due_of(payload, length, &usual_place);
        if (is_measured(due))
            histogram_add(&counts.delivery_times, now - due);
    }
}

static void on_message(struct client *client, const uint8_t *payload, size_t length, uint64_t now)
{
    note(client, "heard", payload, length);
    switch (kind_of(payload, length)) {
    case NEW_MESSAGE:
        on_delivered(client, payload, length, now);
        return;
    case MESSAGE_ACK:
        on_acknowledged(client, payload, length, now);
        return;
    case AUTHENTICATED:
        if (client->state != AUTHENTICATING || is_storming)
            return; /* in a storm it is back when it has caught up */
        if (is_following) {
            keep_epoch(payload, length);
            follow_from(client, number_of(payload, length, "\"lastSeq\":"));
        }
        client->state = LIVE;
        counts.in_handshake--;
        counts.live++;
        histogram_add(&counts.handshake_times, now - client->started);
        return;
    case CAUGHT_UP:
        on_caught_up(client, number_of(payload, length, "\"seq\":"));
        return;
    case RESYNC:
        counts.resyncs++;
        on_caught_up(client, number_of(payload, length, "\"seq\":"));
        return;
    case REFUSED:
        if (client->state != LIVE) {
            char why[NOTE_BYTES] = "";
            note_once(why, payload, length);
            lose(client, why);
            return;
        }
        counts.refused++;
        client->answered++;
        note_once(counts.first_refusal, payload, length);
        if (is_answering)
            put_message(client, now);
        return;
    case GREETING:
        put_authentication(client);
        return;
    case BEAT:
        answer_beat(client);
        return;
    case OTHER:
        counts.other_frames++;
        if (window.is_open)
            window.other_frames++;
    }
}

void on_text(struct client *client, const uint8_t *payload, size_t length, uint64_t now)
{
    while (length) {
        size_t first = first_message(payload, length);
        on_message(client, payload, first, now);
        payload += first + (first < length);
        length -= first + (first < length);
    }
}
