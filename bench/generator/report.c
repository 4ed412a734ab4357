/* What a run of the generator says on stdout: one JSON object, read by bench/figures.py. */
#include <stdio.h>

#include "generator.h"

static void print_count(const char *name, uint64_t count)
{
    printf(", \"%s\": %llu", name, (unsigned long long)count);
}

static void print_number(const char *name, double number)
{
    printf(", \"%s\": %.6f", name, number);
}

static void print_text(const char *name, const char *text)
{
    printf(", \"%s\": \"", name);
    for (; *text; text++)
        if (*text == '"' || *text == '\\')
            printf("\\%c", *text);
        else
            putchar(*text < 32 || *text > 126 ? '?' : *text);
    putchar('"');
}

static void print_times(const char *name, const struct histogram *times)
{
    printf(", \"%s\": ", name);
    histogram_print(stdout, times);
}

/* Every client must have received what was acknowledged in its room: as often, not only as many in all. */
static void print_deliveries_that_do_not_add_up(void)
{
    uint64_t missing = 0, surplus = 0;
    for (size_t i = 0; i < client_count; i++) {
        uint64_t due = clients[i].state == WAITING ? 0 : clients[i].room->acknowledged;
        if (clients[i].is_slow)
            continue;
        if (clients[i].received < due)
            missing += due - clients[i].received;
        else
            surplus += clients[i].received - due;
    }
    print_count("missing", missing);
    print_count("surplus", surplus);
}

void print_report(void)
{
    double over = window.seconds > 0 ? window.seconds : 1;
    int is_behind = window.end && counts.last_arrival > window.end;
    printf("{\"mode\": \"%s\"", settings.mode);
    print_count("connections", client_count);
    print_count("live", counts.live);
    print_count("failed", counts.failed);
    print_count("lost", counts.lost);
    print_number("connect_seconds", counts.connect_seconds);
    print_number("window_seconds", window.seconds);
    print_number("cpu_seconds", window.cpu_seconds);
    print_count("window_sent", window.sent);
    print_count("window_acknowledged", window.acknowledged);
    print_count("window_delivered", window.delivered);
    print_number("messages_per_s", (double)window.acknowledged / over);
    print_number("deliveries_per_s", (double)window.delivered / over);
    print_count("sent", counts.sent);
    print_count("acknowledged", counts.acknowledged);
    print_count("refused", counts.refused);
    print_count("unacknowledged", counts.sent - counts.acknowledged - counts.refused - counts.cut);
    print_count("cut", counts.cut);
    print_count("delivered", counts.delivered);
    if (is_following)
        print_storm();
    else
        print_deliveries_that_do_not_add_up();
    print_count("other_frames", counts.other_frames);
    print_count("window_other_frames", window.other_frames);
    print_count("left", counts.left);
    print_count("window_left", window.left);
    print_count("slow", counts.slow);
    print_count("slow_closed", counts.slow_closed);
    print_count("bytes_received", counts.bytes_received);
    print_number("drain_seconds", counts.drain_seconds);
    print_number("behind_seconds", is_behind ? (double)(counts.last_arrival - window.end) / 1e9 : 0);
    print_number("send_lag_max_us", (double)counts.largest_send_lag / 1e3);
    print_text("first_failure", counts.first_failure);
    print_text("first_refusal", counts.first_refusal);
    print_text("first_loss", counts.first_loss);
    print_times("handshake_times", &counts.handshake_times);
    print_times("ack_times", &counts.ack_times);
    print_times("delivery_times", &counts.delivery_times);
    print_times("round_times", &counts.round_times);
    printf("}\n");
}
