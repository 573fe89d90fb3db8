/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Fragments. Only the first has ports; the others follow its verdict, which is
 * remembered under the identity by which the receiver will put them together.
 */
#ifndef PERIMETERD_FRAGMENT_H
#define PERIMETERD_FRAGMENT_H

#include <linux/types.h>

#include <bpf/bpf_helpers.h>

#include "clock.h"
#include "maps.h"
#include "packet.h"
#include "settings.h"
#include "types.h"

static __always_inline void fragment_key_of(const struct packet *pkt, struct fragment_key *key)
{
	*key = (struct fragment_key){
		.source = pkt->end == END_TOWARDS ? pkt->peer : pkt->local,
		.destination = pkt->end == END_TOWARDS ? pkt->local : pkt->peer,
		.id = pkt->fragment_id,
		/* IPv6 receivers ignore the next header of later fragments. */
		.protocol = pkt->family == 4 ? pkt->protocol : 0,
		.family = pkt->family,
		.end = pkt->end,
	};
}

/* Remembers what became of a first fragment. */
static __noinline void fragment_remember(const struct packet *pkt, __u32 verdict)
{
	struct fragment fragment = {
		.seen = clock_jiffies(),
		.verdict = verdict,
		.header = pkt->header,
	};
	struct fragment_key key;

	fragment_key_of(pkt, &key);
	bpf_map_update_elem(&fragments, &key, &fragment, BPF_ANY);
}

/* The verdict a later fragment follows, as a reason. */
static __noinline enum reason fragment_follow(const struct packet *pkt)
{
	struct fragment *first;
	struct fragment_key key;

	fragment_key_of(pkt, &key);
	first = bpf_map_lookup_elem(&fragments, &key);
	if (!first || (__u32)clock_jiffies() - first->seen > settings.fragment_timeout)
		return REASON_FRAGMENT_UNKNOWN;
	if (pkt->fragment_offset < first->header)
		return REASON_FRAGMENT_OVERLAP;
	return first->verdict == VERDICT_ALLOW ? REASON_FRAGMENT_FOLLOWS : REASON_FRAGMENT_DENIED;
}

#endif
