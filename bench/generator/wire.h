/* The WebSocket bytes that the load generator and the floor share (RFC 6455): an upgrade with one fixed key, frames.
 *
 * The key is the RFC's own example, so that neither side needs SHA-1; a real server must compute the answer and is
 * checked against it. No extensions and no fragments: chatd and its peers send neither unless they are asked to.
 */
#ifndef BENCH_WIRE_H
#define BENCH_WIRE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define WIRE_KEY "dGhlIHNhbXBsZSBub25jZQ=="
#define WIRE_ACCEPT "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
#define WIRE_LARGEST_HEADER 14

enum opcode { OP_CONTINUATION = 0, OP_TEXT = 1, OP_BINARY = 2, OP_CLOSE = 8, OP_PING = 9, OP_PONG = 10 };

struct frame {
    unsigned opcode;
    int is_final;
    uint8_t *payload;
    size_t length;
    size_t whole; /* header and payload */
};

/* Reads the frame at the start of `bytes` and unmasks it in place. 1: read; 0: not all of it is here yet. */
static inline int wire_read_frame(uint8_t *bytes, size_t available, struct frame *frame)
{
    if (available < 2)
        return 0;
    size_t header = 2, length = bytes[1] & 0x7f;
    if (length == 126) {
        if (available < 4)
            return 0;
        length = (size_t)bytes[2] << 8 | bytes[3];
        header = 4;
    } else if (length == 127) {
        if (available < 10)
            return 0;
        length = 0;
        for (int i = 2; i < 10; i++)
            length = length << 8 | bytes[i];
        header = 10;
    }
    int is_masked = bytes[1] & 0x80;
    const uint8_t *mask = bytes + header;
    if (is_masked)
        header += 4;
    if (available < header || available - header < length)
        return 0;
    frame->opcode = bytes[0] & 0x0f;
    frame->is_final = bytes[0] >> 7;
    frame->payload = bytes + header;
    frame->length = length;
    frame->whole = header + length;
    if (is_masked)
        for (size_t i = 0; i < length; i++)
            frame->payload[i] ^= mask[i & 3];
    return 1;
}

/* Writes the header (masked when `mask` is given) and the payload to `out`, which must hold
 * WIRE_LARGEST_HEADER + length bytes. Returns how many were written. */
static inline size_t wire_write_frame(uint8_t *out, unsigned opcode, const void *payload, size_t length,
                                      const uint8_t *mask)
{
    size_t at = 0;
    uint8_t mask_bit = mask ? 0x80 : 0;
    out[at++] = 0x80 | opcode;
    if (length < 126) {
        out[at++] = mask_bit | (uint8_t)length;
    } else if (length < 65536) {
        out[at++] = mask_bit | 126;
        out[at++] = (uint8_t)(length >> 8);
        out[at++] = (uint8_t)length;
    } else {
        out[at++] = mask_bit | 127;
        for (int shift = 56; shift >= 0; shift -= 8)
            out[at++] = (uint8_t)((uint64_t)length >> shift);
    }
    if (!mask) {
        memcpy(out + at, payload, length);
        return at + length;
    }
    memcpy(out + at, mask, 4);
    at += 4;
    const uint8_t *from = payload;
    for (size_t i = 0; i < length; i++)
        out[at + i] = from[i] ^ mask[i & 3];
    return at + length;
}

#endif
