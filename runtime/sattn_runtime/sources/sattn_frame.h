/* Frames for `sattn-run MODEL "serial:/dev/ttyUSB0?format=cobs"`: COBS between zero bytes, CRC32, numbered samples.
 *
 * C99, this file alone; no heap, no tables, no library but <stdint.h>, <stddef.h> and <string.h>.
 *
 *     static uint8_t frame[SATTN_FRAME_ROOM(1, 6)];
 *     uint32_t number = 0;                                     // counts samples, from 0 at power-up; it may wrap
 *     for (;;) {
 *         float sample[6] = {...};                             // physical units
 *         size_t n = sattn_frame_samples(frame, sizeof frame, number, micros(), sample, 1, 6);
 *         uart_write(frame, n);
 *         number += 1;
 *     }
 *
 * Once at power-up, and as often as you like: sattn_frame_names(frame, room, 50.0f, "ax[g],ay[g],az[g]"), so that the
 * receiver puts channels in its order and checks units and rate. SPDX-License-Identifier: Apache-2.0 */
#ifndef SATTN_FRAME_H
#define SATTN_FRAME_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define SATTN_FRAME_PLAIN(bytes) (12u + (bytes) + 4u)
/* COBS adds a byte for every 254 and one more; a zero stands before and behind. */
#define SATTN_FRAME_CODED(bytes) (SATTN_FRAME_PLAIN(bytes) + SATTN_FRAME_PLAIN(bytes) / 254u + 1u + 2u)
#define SATTN_FRAME_ROOM(samples, channels) SATTN_FRAME_CODED(4u * (samples) * (channels))

typedef struct {
    uint8_t *out;   /* where the frame is written */
    size_t at;      /* bytes written, the length byte of the open block among them */
    size_t length;  /* where that length byte is */
    uint8_t block;  /* what it will hold */
    uint32_t crc;
} sattn_frame_;

static void sattn_frame_block_(sattn_frame_ *f) {
    f->length = f->at++;
    f->block = 1;
}

static void sattn_frame_code_(sattn_frame_ *f, uint8_t byte) {
    if (f->block == 255) { /* a full block stands for no zero; the next begins when there is a byte for it */
        f->out[f->length] = 255;
        sattn_frame_block_(f);
    }
    if (byte == 0) {
        f->out[f->length] = f->block;
        sattn_frame_block_(f);
    } else {
        f->out[f->at++] = byte;
        f->block++;
    }
}

static void sattn_frame_byte_(sattn_frame_ *f, uint8_t byte) {
    int bit;
    f->crc ^= byte;
    for (bit = 0; bit < 8; bit++) {
        f->crc = (f->crc >> 1) ^ (0xEDB88320u & (0u - (f->crc & 1u)));
    }
    sattn_frame_code_(f, byte);
}

static void sattn_frame_word_(sattn_frame_ *f, uint32_t word) {
    int i;
    for (i = 0; i < 4; i++) {
        sattn_frame_byte_(f, (uint8_t)(word >> (8 * i)));
    }
}

static void sattn_frame_float_(sattn_frame_ *f, float value) {
    uint32_t word;
    memcpy(&word, &value, 4);
    sattn_frame_word_(f, word);
}

static void sattn_frame_open_(sattn_frame_ *f, uint8_t *out, uint8_t kind, uint8_t channels, uint16_t count) {
    f->out = out;
    f->at = 0;
    f->crc = 0xFFFFFFFFu;
    f->out[f->at++] = 0;
    sattn_frame_block_(f);
    sattn_frame_byte_(f, kind);
    sattn_frame_byte_(f, channels);
    sattn_frame_byte_(f, (uint8_t)(count & 0xFFu));
    sattn_frame_byte_(f, (uint8_t)(count >> 8));
}

static size_t sattn_frame_close_(sattn_frame_ *f) {
    uint32_t crc = ~f->crc;
    int i;
    for (i = 0; i < 4; i++) {
        sattn_frame_code_(f, (uint8_t)(crc >> (8 * i)));
    }
    f->out[f->length] = f->block;
    f->out[f->at++] = 0;
    return f->at;
}

/* Writes `count` samples of `channels` values each, sample by sample. `number` is that of the first one, `time_us` when
 * it was taken. Returns how many bytes to send, or 0 where `room` is less than SATTN_FRAME_ROOM(count, channels). */
static inline size_t sattn_frame_samples(uint8_t *out, size_t room, uint32_t number, uint32_t time_us,
                                         const float *samples, uint16_t count, uint8_t channels) {
    sattn_frame_ f;
    size_t i, values = (size_t)count * channels;
    if (room < SATTN_FRAME_CODED(4u * values)) {
        return 0;
    }
    sattn_frame_open_(&f, out, 1, channels, count);
    sattn_frame_word_(&f, number);
    sattn_frame_word_(&f, time_us);
    for (i = 0; i < values; i++) {
        sattn_frame_float_(&f, samples[i]);
    }
    return sattn_frame_close_(&f);
}

/* Writes the channels' names, in the order of the samples, as "ax[g],ay[g]"; a rate of 0 is one not known. Returns as
 * above; the room is SATTN_FRAME_CODED(strlen(names)). */
static inline size_t sattn_frame_names(uint8_t *out, size_t room, float rate_hz, const char *names) {
    sattn_frame_ f;
    size_t i, length = strlen(names);
    if (room < SATTN_FRAME_CODED(length)) {
        return 0;
    }
    sattn_frame_open_(&f, out, 2, 0, 0);
    sattn_frame_word_(&f, 0);
    sattn_frame_float_(&f, rate_hz);
    for (i = 0; i < length; i++) {
        sattn_frame_byte_(&f, (uint8_t)names[i]);
    }
    return sattn_frame_close_(&f);
}

#endif
