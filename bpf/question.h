/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * One packet's way through the questions: what it is judged with, what was
 * read, what was answered. Lives in per-CPU memory, where the verifier keeps no
 * values: so it need not follow every way through the parser on through the
 * decision. Nobody reads it after the packet has left.
 */
#ifndef PERIMETERD_QUESTION_H
#define PERIMETERD_QUESTION_H

#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>
#include <stddef.h>

#include <bpf/bpf_helpers.h>

#include "context.h"
#include "maps.h"
#include "packet.h"
#include "policy.h"
#include "settings.h"
#include "types.h"

struct question {
	struct control control;
	struct packet packet;
	struct packet quoted;	/* by an ICMP error */
	struct judgement answer;
	struct judgement other;	/* of a packet that may be of either direction */
	struct flow ended;	/* what left its table, to be told of */
	__u32 ifindex;
	__u32 parsed;		/* enum reason: what reading said */
	__u32 slot;		/* enum question_slot: where this is */
	bool forwarded;		/* came in by another interface, perhaps under other addresses */
	bool ours;		/* counted here, and not where it came in */
	bool crossed;		/* has a flow, but is an opening of the other direction */
	bool arrives;		/* from a wire, and not from this host itself */
};

enum question_slot {
	QUESTION_PACKET,	/* of packets: they cannot interrupt each other */
	QUESTION_EXPLAIN,	/* of test runs: a packet may interrupt those */
	QUESTION_SLOT_COUNT,
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, QUESTION_SLOT_COUNT);
	__type(key, __u32);
	__type(value, struct question);
} questions SEC(".maps");

/* Reads what is in force, in one load: generation and flags belong together. */
static __always_inline bool question_read_control(struct control *control)
{
	__u32 zero = 0;
	struct control *current = bpf_map_lookup_elem(&control_map, &zero);
	__u64 word;

	if (!current)
		return false;
	word = *(volatile __u64 *)current;
	control->generation = (__u32)word;
	control->flags = word >> 32;
	return true;
}

/* Begins a question in `slot`, with what is in force now. NULL cannot be: both maps have the entry asked for. */
static __always_inline struct question *question_open(context *ctx, __u32 slot)
{
	struct question *question = bpf_map_lookup_elem(&questions, &slot);

	if (!question || !question_read_control(&question->control))
		return NULL;
	question->ifindex = context_ifindex(ctx);
	question->slot = slot;
	question->crossed = false;
	return question;
}

/* Which part of a frame to read, and what it begins with. */
enum part {
	PART_FRAME,		/* an Ethernet header, into `packet` */
	PART_NETWORK,		/* an IP header, into `packet`: devices without link header */
	PART_QUOTED,		/* what `packet`, an ICMP error, quotes: into `quoted` */
};

/*
 * Reads one part. A global function, which the verifier looks at once, so it finds
 * the question itself. Returns an enum reason.
 */
__noinline int question_read_part(context *ctx, __u32 slot, __u32 part)
{
	struct question *question = bpf_map_lookup_elem(&questions, &slot);
	struct frame frame;
	enum reason why;

	if (!question)
		return REASON_POLICY_INCOMPLETE;
	context_frame(ctx, &frame, context_length(ctx));
	if (part == PART_QUOTED) { /* what follows the error's own length is padding */
		__u32 end = question->packet.l3_offset + question->packet.length;

		frame.quoted = true;
		if (frame.length > end)
			frame.length = end;
	} else {
		frame.link_header = part == PART_FRAME && !context_lacks_link_header(ctx);
		frame.network_offset = part == PART_FRAME ? 0 : context_network_offset(ctx);
		why = packet_parse_link(&frame, &question->packet);
		if (why != REASON_NONE)
			return why;
		/* Again, or each way through the link header is verified on through the IP header. */
		context_frame(ctx, &frame, context_length(ctx));
	}
	return packet_parse_ip(&frame, part == PART_QUOTED ? &question->quoted : &question->packet);
}

/* packet_parse_plain, where the data is sure to be a frame. */
static __always_inline bool question_read_plain(context *ctx, struct packet *pkt, enum end end)
{
	struct frame frame;

	context_frame(ctx, &frame, context_length_at_least(ctx));
	return context_surely_has_link_header(ctx) && packet_parse_plain(&frame, pkt, end);
}

/* Which packet of a question is judged, and where the answer goes. */
enum judged {
	JUDGED_PACKET,		/* `packet`, into `answer` */
	JUDGED_OTHERWISE,	/* `packet`, into `other` */
	JUDGED_QUOTED,		/* `quoted`, into `answer` */
};

/*
 * policy_judge for a packet of the question in `slot`. A global function, which
 * the verifier looks at once, and not once for each way to reach it.
 */
__noinline int question_judge(__u32 slot, __u32 judged, __u32 direction)
{
	struct question *question = bpf_map_lookup_elem(&questions, &slot);

	if (!question)
		return 0;
	policy_judge(&question->control, judged == JUDGED_QUOTED ? &question->quoted : &question->packet, direction,
		     question->ifindex, judged == JUDGED_OTHERWISE ? &question->other : &question->answer);
	return 0;
}

#define DNS_PORT 53

/* True for what goes to a resolver or comes from one, as far as ports tell, if there are names to be learnt. */
static __always_inline bool question_is_dns(const struct question *question, enum reason parsed)
{
	const struct packet *pkt = &question->packet;

	return settings.names && question->control.flags & CONTROL_NAMES && parsed == REASON_NONE &&
	       pkt->protocol == PROTOCOL_UDP && pkt->peer_port == DNS_PORT && pkt->fragment != FRAGMENT_LATER;
}

/* True for what reading says of a frame whose rest may merely not be at hand yet. */
static __always_inline bool question_wants_more(enum reason why)
{
	return why == REASON_TRUNCATED_LINK || why == REASON_TRUNCATED_IP || why == REASON_TRUNCATED_HEADER ||
	       why == REASON_TRUNCATED_L4 ||
	       why == REASON_TOO_MANY_HEADERS; /* where nothing is at hand, context_network_offset finds nothing */
}

/* Keeps what reading said and reads it back, or the verifier follows each way to it on by itself. */
static __always_inline enum reason question_parsed(struct question *question, enum reason why)
{
	question->parsed = why;
	return forget(question->parsed);
}

/*
 * Reads a part of the frame into the question in `slot`. If headers turn out to
 * lie beyond the readable bytes they are made readable and read again: what is
 * not at hand is no reason to call a packet truncated. What the answers of
 * packet_parse_ip mean holds here too.
 */
static __always_inline enum reason question_read(context *ctx, struct question *question, __u32 slot, enum part part,
						 __u32 end)
{
	struct packet *pkt = part == PART_QUOTED ? &question->quoted : &question->packet;
	enum reason why = REASON_NONE;

	if (part == PART_FRAME && question_read_plain(ctx, pkt, end))
		return question_parsed(question, REASON_NONE);
	for (int i = 0; i < 2; i++) {
		*pkt = (struct packet){.end = end};
		if (part == PART_QUOTED) {
			pkt->l3_offset = question->packet.l4_offset + sizeof(struct icmp_header);
			pkt->ethertype = question->packet.ethertype;
		}
		why = question_read_part(ctx, slot, part);
		if (!question_wants_more(why) || i == 1 || !context_more(ctx))
			break;
		why = REASON_NONE;
	}
	return question_parsed(question, why);
}

#endif
