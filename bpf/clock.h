/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Time. Flows count in jiffies, which cost nothing to read; only what is
 * reported reads the real clock. A frame of a capture is judged at its own time.
 */
#ifndef PERIMETERD_CLOCK_H
#define PERIMETERD_CLOCK_H

#include <linux/types.h>

#include <bpf/bpf_helpers.h>

#include "settings.h"

/* A frame of a capture. Written by user space before each; read only if settings.replay. */
struct replayed_frame {
	__u64 jiffies;
	__u64 ns;		/* since boot */
	__u32 length;		/* bytes it had on the wire, of which the frame may be the first only */
	__u32 pad;
};

volatile struct replayed_frame replayed;

static __always_inline __u64 clock_jiffies(void)
{
	return settings.replay ? replayed.jiffies : bpf_jiffies64();
}

/* Nanoseconds since boot, suspended time included. */
static __always_inline __u64 clock_ns(void)
{
	return settings.replay ? replayed.ns : bpf_ktime_get_boot_ns();
}

#endif
