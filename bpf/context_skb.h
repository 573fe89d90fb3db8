/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The packet as TC hands it over: all that is particular to an skb. */
#ifndef PERIMETERD_CONTEXT_SKB_H
#define PERIMETERD_CONTEXT_SKB_H

#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "clock.h"
#include "packet.h"
#include "settings.h"

typedef struct __sk_buff context;

static __always_inline __u32 context_ifindex(context *skb)
{
	return skb->ifindex;
}

/* Bytes of the whole frame, of which not all need be readable. */
static __always_inline __u32 context_length(context *skb)
{
	return settings.replay ? replayed.length : skb->len;
}

/* The same, or less where that is told faster. */
static __always_inline __u32 context_length_at_least(context *skb)
{
	return context_length(skb);
}

static __always_inline void context_frame(context *skb, struct frame *frame, __u32 length)
{
	*frame = (struct frame){
		.data = (void *)(long)skb->data,
		.end = (void *)(long)skb->data_end,
		.length = length,
		.protocol = bpf_ntohs(skb->protocol),
		/* Longer than its IP header can say it is only before it is cut into segments. */
		.segments = settings.replay ? replayed.length > 0xffff : skb->gso_size != 0,
	};
}

/* True if the data of a packet from an Ethernet device is sure to begin with its link header. */
static __always_inline bool context_surely_has_link_header(context *skb)
{
	return skb->ingress_ifindex != skb->ifindex || skb->len != skb->wire_len;
}

/*
 * True if the data of a packet from an Ethernet device begins with its IP header.
 * Linux forgets how long the link header is where a generic XDP program, anybody's,
 * that takes frames in parts has passed the packet (seen on 6.18). What comes in
 * is then no longer than what was counted of it. So it is at egress, too, where the
 * frame begins before its network header.
 */
static __always_inline bool context_lacks_link_header(context *skb)
{
	__u64 first[2] = {}, network[2] = {};

	if (context_surely_has_link_header(skb))
		return false;
	return bpf_skb_load_bytes(skb, 0, first, sizeof(first)) == 0 &&
	       bpf_skb_load_bytes_relative(skb, 0, network, sizeof(network), BPF_HDR_START_NET) == 0 &&
	       first[0] == network[0] && first[1] == network[1];
}

/* Offsets beyond are an error to bpf_skb_load_bytes_relative, wherever the packet ends. */
#define RELATIVE_OFFSET_MAX 0xffff

/*
 * All ones if the network header is more than `offset` bytes behind the start of
 * the data, of which so many are readable: that is if so much less can be read from
 * the header on. Else 0. Without a branch, each of which would double the ways that
 * the verifier follows.
 */
static __always_inline __u32 context_network_beyond(context *skb, __s64 readable, __u32 offset)
{
	__s64 last = readable - 1 - offset;
	__u8 byte;

	last &= ~(last >> 63); /* where nothing is so far behind */
	return bpf_skb_load_bytes_relative(skb, last, &byte, sizeof(byte), BPF_HDR_START_NET) >> 63;
}

/*
 * Bytes of the data before the network header, on devices without a link header.
 * There are some before Linux 5.14, where most tunnels leave in place what they
 * took off, and TC shows it as one big link header. How many can only be told from
 * how much there is behind them. More than HEADER_BYTES_MAX: too many to tell.
 */
static __always_inline __u32 context_network_offset(context *skb)
{
	__s64 readable = (long)skb->data_end - (long)skb->data;
	__u32 offset = 0;

	asm volatile("" : "+r"(readable)); /* a number from here on, and no pointers to calculate with */
	if (readable > RELATIVE_OFFSET_MAX)
		return HEADER_BYTES_MAX + 1; /* no IP packet is so long, and who wrote it could choose the offset found */
	if (!context_network_beyond(skb, readable, 0))
		return 0;
	for (__u32 step = HEADER_BYTES_MAX / 2; step; step /= 2)
		offset += step & context_network_beyond(skb, readable, offset + step - 1);
	return offset + (2 & context_network_beyond(skb, readable, offset));
}

/* Makes more of the packet readable. False if there is no more, or no memory. */
static __always_inline bool context_more(context *skb)
{
	__u32 readable = skb->data_end - skb->data;
	__u32 wanted = HEADER_BYTES_MAX + 64;

	if (wanted > skb->len)
		wanted = skb->len;
	return readable < wanted && bpf_skb_pull_data(skb, wanted) == 0;
}

#endif
