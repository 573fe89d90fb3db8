/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Time. Flows count in jiffies, which cost nothing to read; only what is
 * reported reads the real clock.
 */
#ifndef PERIMETERD_CLOCK_H
#define PERIMETERD_CLOCK_H

#include <linux/types.h>

#include <bpf/bpf_helpers.h>

static __always_inline __u64 clock_jiffies(void)
{
	return bpf_jiffies64();
}

/* Nanoseconds since boot, suspended time included. */
static __always_inline __u64 clock_ns(void)
{
	return bpf_ktime_get_boot_ns();
}

#endif
