/* What every client sent and was told, a JSON object a line, as `chatd verify` reads it (docs/verify.md): one file for all,
 * each line with its client's name. Written in large pieces; whoever stops the generator has the beginning of it. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "generator.h"

#define LOG_BUFFER (1 << 20)

static FILE *file;
static double day_begin_s; /* what the monotonic clock's zero is in seconds since 1970 */

static size_t number_of(const struct client *client)
{
    return (size_t)(client - clients);
}

void open_log(void)
{
    if (!settings.log_file)
        return;
    file = fopen(settings.log_file, "w");
    if (!file)
        fail("%s: %s", settings.log_file, strerror(errno));
    setvbuf(file, NULL, _IOFBF, LOG_BUFFER);
    struct timespec day;
    clock_gettime(CLOCK_REALTIME, &day);
    day_begin_s = (double)day.tv_sec + (double)day.tv_nsec / 1e9 - (double)now_ns() / 1e9;
    for (size_t i = 0; i < client_count; i++)
        fprintf(file, "{\"name\":\"client%zu\",\"user_id\":\"%s\"}\n", i, clients[i].user_id);
}

void note(const struct client *client, const char *what, const void *message, size_t length)
{
    if (!file)
        return;
    fprintf(file, "{\"at_s\":%.6f,\"stay\":%u,\"what\":\"%s\",\"name\":\"client%zu\",\"message\":",
            day_begin_s + (double)now_ns() / 1e9, client->stays, what, number_of(client));
    const char *text = message, *end = text + length;
    for (const char *line_end; text < end; text = line_end + 1) { /* in JSON a line's end is a space */
        line_end = memchr(text, '\n', (size_t)(end - text));
        line_end = line_end ? line_end : end;
        fwrite(text, 1, (size_t)(line_end - text), file);
        if (line_end < end)
            fputc(' ', file);
    }
    fputs("}\n", file);
}

void close_log(void)
{
    if (file && (ferror(file) | fclose(file)))
        fail("%s: %s", settings.log_file, strerror(errno));
}
