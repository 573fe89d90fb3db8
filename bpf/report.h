/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Telling user space. Every decision that is made is counted once as decided
 * and once as submitted, folded or lost, so that the books of the agent can be
 * balanced to the unit. Nothing here changes a verdict.
 */
#ifndef PERIMETERD_REPORT_H
#define PERIMETERD_REPORT_H

#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>

#include <bpf/bpf_helpers.h>

#include "clock.h"
#include "maps.h"
#include "packet.h"
#include "policy.h"
#include "settings.h"
#include "types.h"

static __always_inline void report_packet(__u32 reason, __u32 bytes)
{
	struct packet_count *count = bpf_map_lookup_elem(&packet_counts, &reason);

	if (!count)
		return;
	count->packets++;
	count->bytes += bytes;
}

static __always_inline struct decision_count *report_category(__u32 category)
{
	return bpf_map_lookup_elem(&decision_counts, &category);
}

/*
 * Waking the reader costs more than all else here, so it happens once when the
 * ring fills past the mark; otherwise the reader comes by its own timer.
 */
static __always_inline __u64 report_wake_up(void *ring)
{
	__u64 waiting = bpf_ringbuf_query(ring, BPF_RB_AVAIL_DATA);

	if (waiting >= settings.wake_at && waiting < settings.wake_at + 4 * sizeof(struct event))
		return BPF_RB_FORCE_WAKEUP;
	return BPF_RB_NO_WAKEUP;
}

/* `now` is clock_ns(), which costs as much as a lookup: whoever has read it hands it on. */
static __always_inline void report_fill(struct event *event, const struct packet *pkt, const struct judgement *answer,
					const struct flow *flow, __u32 ifindex, __u32 generation, __u64 now)
{
	event->time = now;
	event->local = pkt->local;
	event->peer = pkt->peer;
	event->generation = generation;
	event->outcome = answer->outcome;
	event->member = answer->member;
	event->ifindex = ifindex;
	event->local_port = pkt->local_port;
	event->peer_port = pkt->peer_port;
	event->family = pkt->family;
	event->protocol = pkt->protocol;
	event->direction = answer->direction;
	event->verdict = answer->verdict;
	event->would_be = answer->would_be;
	event->reason = answer->reason;
	event->category = answer->category;
	__builtin_memset(event->pad, 0, sizeof(event->pad));
	if (flow) {
		event->started = flow->started;
		event->packets[0] = flow->packets[0];
		event->packets[1] = flow->packets[1];
		event->bytes[0] = flow->bytes[0];
		event->bytes[1] = flow->bytes[1];
		event->flow_flags = flow->flags;
	} else {
		event->started = 0;
		event->packets[0] = 0;
		event->packets[1] = 0;
		event->bytes[0] = 0;
		event->bytes[1] = 0;
		event->flow_flags = 0;
	}
}

/* Reports the start of a flow, which is now. */
static __always_inline void report_start(const struct packet *pkt, const struct judgement *answer,
					 const struct flow *flow, __u32 ifindex, __u32 generation)
{
	struct decision_count *count = report_category(answer->category);
	struct event *event;

	if (!count)
		return;
	count->decided++;
	event = bpf_ringbuf_reserve(&flow_events, sizeof(*event), 0);
	if (!event) {
		count->lost++;
		return;
	}
	count->submitted++;
	report_fill(event, pkt, answer, flow, ifindex, generation, flow->started);
	event->kind = EVENT_FLOW_START;
	bpf_ringbuf_submit(event, report_wake_up(&flow_events));
}

/*
 * Reports the end of a flow, unless that was done before. `flow` is a copy or
 * still in its table. No decision, so it is counted apart.
 */
static __noinline void report_end(const struct packet *pkt, const struct flow *flow)
{
	struct judgement answer = {
		.member = flow->member,
		.outcome = flow->outcome,
		.verdict = VERDICT_ALLOW,
		.would_be = flow->flags & FLOW_WOULD_BE_DENIED ? VERDICT_DENY : VERDICT_ALLOW,
		.reason = flow->reason,
		.category = flow->category,
		.direction = flow->direction,
	};
	struct decision_count *count = report_category(flow->category);
	struct event *event;

	if (!count || flow->flags & (FLOW_ENDED | FLOW_UNLISTED))
		return;
	event = bpf_ringbuf_reserve(&flow_events, sizeof(*event), 0);
	if (!event) {
		count->ends_lost++;
		return;
	}
	count->ends_submitted++;
	report_fill(event, pkt, &answer, flow, flow->ifindex, flow->generation, clock_ns());
	event->kind = EVENT_FLOW_END;
	bpf_ringbuf_submit(event, report_wake_up(&flow_events));
}

/*
 * Reports a denial that starts a row of them, or stands alone (a cut flow, then
 * `flow` is what was cut).
 */
static __always_inline void report_one_denial(struct decision_count *count, const struct packet *pkt,
					      const struct judgement *answer, const struct flow *flow, __u32 ifindex,
					      __u32 generation, __u64 now)
{
	struct event *event = bpf_ringbuf_reserve(&denial_events, sizeof(*event), 0);

	if (!event) {
		count->lost++;
		return;
	}
	count->submitted++;
	report_fill(event, pkt, answer, flow, ifindex, generation, now);
	event->kind = flow ? EVENT_FLOW_CUT : EVENT_DENIED;
	bpf_ringbuf_submit(event, report_wake_up(&denial_events));
}

#define E2BIG 7 /* how an update of a hash fails that is full */

/* Notes in what a denial is unlike the first of its crowd. CPUs may do so at once: each writes the same. */
static __always_inline struct denial *report_join(struct crowd *crowd, const struct packet *pkt, __u16 port,
						  __u32 ifindex)
{
	for (int i = 0; i < 4; i++)
		if (crowd->local.word_be[i] != pkt->local.word_be[i] && !crowd->other_local)
			crowd->other_local = 1;
	if (crowd->port != port && !crowd->other_port)
		crowd->other_port = 1;
	if (crowd->protocol != pkt->protocol && !crowd->other_protocol)
		crowd->other_protocol = 1;
	if (crowd->denial.ifindex != ifindex && !crowd->other_interface)
		crowd->other_interface = 1;
	return &crowd->denial;
}

/*
 * Reports a denial, or what would be one: the first of its peer and kind as an
 * event, the rest by counting. When the table has no room for another peer, what
 * comes of all others is counted together: a flood from addresses without number
 * must cost neither a failing update nor an event for each of its packets. That
 * crowd is asked before a row is begun, so it stays one until both tables are
 * swapped. When there is no room for it either, each is an event.
 */
static __noinline void report_denial(const struct packet *pkt, const struct judgement *answer, __u32 ifindex,
				     __u32 generation)
{
	bool inbound = answer->direction == DIRECTION_INBOUND;
	bool has_ports = packet_has_ports(pkt->protocol);
	struct denial_key key = {
		.local = pkt->local,
		.peer = pkt->peer,
		.generation = generation,
		.port = inbound ? pkt->local_port : pkt->peer_port,
		.protocol = pkt->protocol,
		.family = pkt->family,
		.direction = answer->direction,
		.reason = answer->reason,
		.verdict = answer->verdict,
	};
	struct decision_count *count = report_category(answer->category);
	struct denial *denial = NULL;
	void *peers, *others;
	bool crowded = false;
	__u32 zero = 0;

	if (!count)
		return;
	count->decided++;
	peers = bpf_map_lookup_elem(&denials, &zero);
	others = bpf_map_lookup_elem(&crowds, &zero);
	if (!peers || !others) {
		report_one_denial(count, pkt, answer, NULL, ifindex, generation, clock_ns());
		return;
	}
	denial = bpf_map_lookup_elem(peers, &key);
	if (!denial) {
		bool is_icmp = pkt->protocol == PROTOCOL_ICMP || pkt->protocol == PROTOCOL_ICMPV6;
		__u16 port = has_ports ? key.port : 0;
		struct crowd_key crowd_key = {
			.generation = generation,
			.outcome = answer->outcome,
			.member = answer->member,
			.protocol = has_ports || is_icmp ? pkt->protocol : 0,
			.family = pkt->family,
			.direction = answer->direction,
			.reason = answer->reason,
			.verdict = answer->verdict,
		};
		struct crowd *crowd = bpf_map_lookup_elem(others, &crowd_key);

		crowded = crowd;
		if (!crowd) {
			struct crowd first = {
				.denial = {
					.first = clock_ns(),
					.last = clock_jiffies(),
					.outcome = answer->outcome,
					.member = answer->member,
					.ifindex = ifindex,
					.opener_port = inbound ? pkt->peer_port : pkt->local_port,
					.category = answer->category,
				},
				.local = pkt->local,
				.port = port,
				.protocol = pkt->protocol,
			};
			/* Before 6.4 only the lower half is told. */
			int failed = bpf_map_update_elem(peers, &key, &first.denial, BPF_NOEXIST);

			crowded = failed == -E2BIG;
			if (crowded)
				failed = bpf_map_update_elem(others, &crowd_key, &first, BPF_NOEXIST);
			if (failed == 0) {
				report_one_denial(count, pkt, answer, NULL, ifindex, generation, first.denial.first);
				return;
			}
			/* Another CPU was first, or there is no room for a crowd either. */
			if (crowded)
				crowd = bpf_map_lookup_elem(others, &crowd_key);
			else
				denial = bpf_map_lookup_elem(peers, &key);
		}
		if (crowd)
			denial = report_join(crowd, pkt, port, ifindex);
	}
	if (!denial) {
		report_one_denial(count, pkt, answer, NULL, ifindex, generation, clock_ns());
		return;
	}
	__sync_fetch_and_add(&denial->count, 1);
	denial->last = clock_jiffies();
	denial->opener_port = inbound ? pkt->peer_port : pkt->local_port;
	count->folded++;
	count->crowded += crowded;
}

/* Reports that a changed policy ended a flow that was allowed. */
static __noinline void report_cut(const struct packet *pkt, const struct judgement *answer, const struct flow *flow,
				  __u32 ifindex, __u32 generation)
{
	struct decision_count *count = report_category(answer->category);

	if (!count)
		return;
	count->decided++;
	report_one_denial(count, pkt, answer, flow, ifindex, generation, clock_ns());
}

#endif
