/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What a program at TC does with a packet: from the skb to a verdict TC knows. */
#ifndef PERIMETERD_SKB_H
#define PERIMETERD_SKB_H

#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>

#include <bpf/bpf_helpers.h>

#include "context.h"
#include "decide.h"
#include "handover.h"
#include "maps.h"
#include "name_maps.h"
#include "question.h"
#include "settings.h"
#include "types.h"

/* Lets the programs of others run after ours (TC_ACT_UNSPEC, TCX_NEXT). */
#define TC_NEXT -1
#define TC_DROP 2

/*
 * A forwarded packet that one attached interface has judged for an end must not
 * be counted for the same end by another. It is looked at all the same: between
 * the two its addresses may have been translated, and then it is of another flow.
 */
static __always_inline bool judged_on_arrival(context *skb, __u32 end)
{
	__u32 arrived = skb->ingress_ifindex;
	struct interface *interface;

	if (arrived == 0 || arrived == skb->ifindex)
		return false;
	interface = bpf_map_lookup_elem(&interfaces, &arrived);
	return interface && interface->flags & (end == END_TOWARDS ? INTERFACE_UPLINK : INTERFACE_WORKLOAD);
}

/* True if XDP has judged the packet for this end, on this interface. */
static __always_inline bool judged_by_xdp(context *skb, __u32 end)
{
	struct handover *note = (void *)(long)skb->data_meta;

	if ((void *)(note + 1) > (void *)(long)skb->data)
		return false;
	return note->instance == settings.instance && note->judged == handover_judged(skb->ifindex, end);
}

/* The number of lo, in every network namespace. */
#define LOOPBACK 1

/* What this host sent to a group and hears itself (linux/if_packet.h); it comes in by the interface it left by. */
#define PACKET_LOOPBACK 5

static __always_inline int judge_skb(context *skb, __u32 end, enum part part)
{
	struct question *question;
	enum reason parsed;

	if (judged_by_xdp(skb, end))
		return TC_NEXT;
	question = question_open(skb, QUESTION_PACKET);
	if (!question)
		return TC_NEXT;
	/* A bridge between puts its own number there, so the flow tells by which way it comes. */
	question->forwarded = skb->ingress_ifindex != 0 && skb->ingress_ifindex != skb->ifindex;
	question->ours = !judged_on_arrival(skb, end);
	question->arrives = skb->ingress_ifindex == skb->ifindex && skb->ifindex != LOOPBACK &&
			    skb->pkt_type != PACKET_LOOPBACK;
	parsed = question_read(skb, question, QUESTION_PACKET, part, end);
	/* The program goes on in another, or where that is not loaded, here. */
	if (end == END_FROM && question_is_dns(question, parsed))
		bpf_tail_call(skb, &dns_programs, DNS_PROGRAM_QUERY);
	decide(skb, question, parsed);
	if (!leave(skb, question))
		return TC_DROP;
	if (end == END_TOWARDS && question_is_dns(question, parsed))
		bpf_tail_call(skb, &dns_programs, DNS_PROGRAM_ANSWER);
	return TC_NEXT;
}

/*
 * Tells user space, which runs a program for one frame, what was answered.
 *   cb[0] outcome, cb[1] member, cb[2] generation,
 *   cb[3] reason | category << 8 | verdict << 16 | would_be << 24,
 *   cb[4] direction
 */
static __always_inline void skb_answer(context *skb, const struct question *question)
{
	const struct judgement *answer = &question->answer;

	skb->cb[0] = answer->outcome;
	skb->cb[1] = answer->member;
	skb->cb[2] = question->control.generation;
	skb->cb[3] = answer->reason | answer->category << 8 | answer->verdict << 16 | (__u32)answer->would_be << 24;
	skb->cb[4] = answer->direction;
}

#endif
