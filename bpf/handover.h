/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The note a packet carries from XDP to TC of the same interface: it was judged,
 * so it is not judged and counted again. It lies in the metadata before the
 * frame, which nothing on the wire can write. A packet without it, for whatever
 * reason, is judged at TC.
 */
#ifndef PERIMETERD_HANDOVER_H
#define PERIMETERD_HANDOVER_H

#include <linux/types.h>

#include <bpf/bpf_helpers.h>

struct handover {
	__u64 instance;		/* settings.instance: drawn by lot; whoever sends packets must not guess it */
	__u32 judged;		/* handover_judged(); what it was judged for, and where */
	__u32 pad;
};

/* Metadata may outlive its interface, so it says for which it was meant. Never 0: ifindex is not. */
static __always_inline __u32 handover_judged(__u32 ifindex, __u32 end)
{
	return ifindex << 1 | (end & 1);
}

#endif
