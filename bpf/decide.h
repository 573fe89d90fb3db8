/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The decision path of every packet, for both directions and both address
 * families. decide() is the list of questions; each either answers or leaves
 * the packet to the next. leave() is the only way out: it counts and reports.
 */
#ifndef PERIMETERD_DECIDE_H
#define PERIMETERD_DECIDE_H

#include <linux/types.h>
#include <stdbool.h>

#include <bpf/bpf_helpers.h>

#include "clock.h"
#include "failsafe.h"
#include "flow.h"
#include "fragment.h"
#include "maps.h"
#include "packet.h"
#include "policy.h"
#include "question.h"
#include "report.h"
#include "types.h"

static __always_inline void answer_without_policy(struct judgement *answer, __u32 reason, __u32 verdict, __u32 end)
{
	*answer = (struct judgement){
		.verdict = verdict,
		.would_be = verdict,
		.reason = reason,
		.direction = end,
	};
}

/* Passes that are neither decisions nor of a member's policy. */
static __always_inline bool pass(struct judgement *answer, const struct packet *pkt, __u32 reason)
{
	answer_without_policy(answer, reason, VERDICT_ALLOW, pkt->end);
	return true;
}

static __always_inline __u32 denied_category(__u32 direction)
{
	return direction == DIRECTION_INBOUND ? NspPublicInboundPerimeterRulesDenied
					      : NspPublicOutboundPerimeterRulesDenied;
}

/*
 * A packet that cannot be understood is dropped where a strict member may get it
 * and passed elsewhere; a fragment whose first was denied is dropped too. Where it
 * is addressed to nobody of ours it is none of our business. True if it is a denial.
 */
static __noinline bool decide_unjudgeable(struct question *question, __u32 why)
{
	const struct packet *pkt = &question->packet;
	struct judgement *answer = &question->answer;
	__u32 strict = question->control.flags & CONTROL_STRICT_HERE;
	__u32 audit = 0;

	pass(answer, pkt, why);
	if (pkt->family != 0) {
		struct local *local = policy_local(&question->control, pkt);

		if (!local)
			return false;
		strict = why == REASON_FRAGMENT_DENIED ||
			 local->flags & (pkt->end == END_TOWARDS ? LOCAL_STRICT_INBOUND : LOCAL_STRICT_OUTBOUND);
		audit = local->flags & LOCAL_AUDIT;
		answer->member = local->outbound;
	}
	if (!strict && !(audit && question->ours))
		return false;
	answer->would_be = VERDICT_DENY;
	answer->verdict = strict ? VERDICT_DENY : VERDICT_ALLOW;
	answer->category = denied_category(pkt->end);
	return true;
}

/*
 * Judges a flow again that was allowed under another generation, in the
 * direction in which it was opened. False: it is no longer in its table; it was
 * denied, is of no member any more, or must begin anew.
 */
static __noinline bool flow_rejudge(struct question *question, struct flow *flow, __u32 table)
{
	const struct packet *pkt = &question->packet;
	struct judgement *answer = &question->answer;

	question_judge(question->slot, JUDGED_PACKET, flow->direction | POLICY_LIVE);
	if (answer->unlisted && flow->flags & FLOW_UNLISTED) {
		flow->generation = question->control.generation;
		return true;
	}
	if (answer->verdict == VERDICT_ALLOW && answer->reason != REASON_UNGOVERNED &&
	    !(flow->flags & FLOW_UNLISTED)) {
		flow->outcome = answer->outcome;
		flow->member = answer->member;
		flow->reason = answer->reason;
		flow->category = answer->category;
		flow->flags = (flow->flags & ~(FLOW_EXPIRES | FLOW_WOULD_BE_DENIED)) |
			      (answer->expires ? FLOW_EXPIRES : 0) |
			      (answer->would_be == VERDICT_DENY ? FLOW_WOULD_BE_DENIED : 0);
		flow->generation = question->control.generation;
		return true;
	}
	question->ended = *flow;
	if (!flow_remove(pkt, table))
		return false; /* another CPU cut it and told */
	if (answer->verdict == VERDICT_DENY)
		report_cut(pkt, answer, &question->ended, question->ifindex, question->control.generation);
	else
		report_end(pkt, &question->ended);
	return false;
}

/* True when the flow's verdict still holds without asking the policy. */
static __always_inline bool flow_is_current(const struct question *question, const struct flow *flow)
{
	struct outcome *outcome;

	if (flow->generation != question->control.generation)
		return false;
	if (!(flow->flags & FLOW_EXPIRES))
		return true;
	outcome = policy_outcome(policy_slot(&question->control), flow->outcome);
	return outcome && !policy_expired(outcome);
}

/* Takes a flow out of its table, and tells that it ended. */
static __noinline bool flow_end(struct question *question, struct flow *flow, __u32 table)
{
	question->ended = *flow;
	if (!flow_remove(&question->packet, table))
		return false; /* another CPU did, and told */
	report_end(&question->packet, &question->ended);
	return true;
}

/*
 * Does the packet belong to a flow that is allowed? True when it is answered
 * here: passed, or denied because the flow no longer is allowed.
 */
static __always_inline bool decide_by_flow(struct question *question)
{
	const struct packet *pkt = &question->packet;
	struct judgement *answer = &question->answer;
	__u32 table = FLOW_TABLE_ESTABLISHED;
	struct flow *flow = flow_find(pkt, FLOW_TABLE_ESTABLISHED);
	__u8 way;

	if (!flow) {
		table = FLOW_TABLE_OPENING;
		flow = flow_find(pkt, FLOW_TABLE_OPENING);
	}
	if (!flow && !packet_opens_tcp(pkt)) { /* another CPU may have settled it between the two looks */
		table = FLOW_TABLE_ESTABLISHED;
		flow = flow_find(pkt, FLOW_TABLE_ESTABLISHED);
	}
	if (!flow)
		return false;
	if (flow_is_idle(flow, pkt->protocol)) {
		flow_end(question, flow, table);
		return false; /* a new flow on an old key */
	}
	if (!flow_is_current(question, flow) && !flow_rejudge(question, flow, table))
		return answer->verdict == VERDICT_DENY;
	if (flow_is_reopened(flow, pkt) || flow_is_crossed(flow, pkt)) {
		question->crossed = true;
		return false; /* what lets the flow pass does not let this; if it is denied, the flow stays */
	}

	way = 1 << (pkt->end & 1);
	question->ours = !question->forwarded || !(flow->arrives & way);
	if (!question->ours)
		return pass(answer, pkt, REASON_ESTABLISHED);
	if (!question->forwarded && !(flow->arrives & way))
		flow->arrives |= way;
	if (flow_advance(flow, pkt)) {
		report_end(pkt, flow);
		flow->flags |= FLOW_ENDED;
	}
	if (table == FLOW_TABLE_OPENING && flow_is_settled(flow, pkt))
		flow_settle(pkt, flow);
	return pass(answer, pkt, REASON_ESTABLISHED);
}

/*
 * Is it an ICMP error about a packet of an allowed flow? The quoted packet went
 * the other way. A flow of an old generation counts if it would still be allowed.
 */
static __noinline bool decide_by_quoted_flow(context *ctx, struct question *question)
{
	const struct packet *pkt = &question->packet;
	struct judgement *answer = &question->answer;
	const struct packet *quoted = &question->quoted;
	struct flow *flow;

	if (question_read(ctx, question, QUESTION_PACKET, PART_QUOTED,
			  pkt->end == END_TOWARDS ? END_FROM : END_TOWARDS) != REASON_NONE)
		return false;
	if (quoted->fragment == FRAGMENT_LATER)
		return false;
	/* An error goes back to where the quoted packet came from. */
	for (int i = 0; i < 4; i++)
		if (pkt->end == END_TOWARDS ? quoted->local.word_be[i] != pkt->local.word_be[i]
					    : quoted->peer.word_be[i] != pkt->peer.word_be[i])
			return false;
	flow = flow_find(quoted, FLOW_TABLE_ESTABLISHED);
	if (!flow)
		flow = flow_find(quoted, FLOW_TABLE_OPENING);
	if (!flow || flow_is_idle(flow, quoted->protocol))
		return false;
	if (!flow_is_current(question, flow)) {
		question_judge(question->slot, JUDGED_QUOTED, flow->direction | POLICY_LIVE);
		if (answer->verdict == VERDICT_DENY)
			return false;
	}
	return pass(answer, pkt, REASON_RELATED);
}

static __always_inline bool packet_is_midstream(const struct packet *pkt)
{
	return pkt->protocol == PROTOCOL_TCP && !packet_opens_tcp(pkt);
}

/* Who opened the flow of a packet that belongs to none; in mid-stream, the side with the lower port is taken for the server. */
static __always_inline __u32 packet_opener(const struct packet *pkt)
{
	if (!packet_is_midstream(pkt))
		return pkt->end;
	return pkt->local_port < pkt->peer_port ? DIRECTION_INBOUND : DIRECTION_OUTBOUND;
}

/*
 * What the policy says about a packet that belongs to no flow. TCP in
 * mid-stream may have been opened by either side before we looked, so it is
 * judged both ways and passes if either is allowed.
 */
static __noinline bool decide_by_policy(struct question *question)
{
	const struct packet *pkt = &question->packet;
	struct judgement *answer = &question->answer;
	__u32 direction = packet_opener(pkt);
	bool midstream = packet_is_midstream(pkt);

	question_judge(question->slot, JUDGED_PACKET, direction);
	/* By what Enforced would do, so that Audit does not report what would pass. */
	if (midstream && answer->would_be == VERDICT_DENY) {
		struct judgement *other = &question->other;

		question_judge(question->slot, JUDGED_OTHERWISE, !direction);
		/* Of two denials, the one in the packet's own direction is told. */
		if (other->unlisted)
			; /* the port guess says that the member opened it: what it may not open is not excused by a port nobody lists */
		else if (other->would_be == VERDICT_ALLOW || direction != pkt->end)
			*answer = *other;
	}
	return midstream;
}

/* Ends the flow whose key a crossing packet, which the policy allows, takes for a new one. */
static __noinline void flow_make_way(struct question *question)
{
	const struct packet *pkt = &question->packet;
	struct flow *flow = flow_find(pkt, FLOW_TABLE_ESTABLISHED);
	__u32 table = FLOW_TABLE_ESTABLISHED;

	if (!flow) {
		table = FLOW_TABLE_OPENING;
		flow = flow_find(pkt, FLOW_TABLE_OPENING);
	}
	if (flow)
		flow_end(question, flow, table);
}

/* Enters the flow of a packet that was allowed, and reports its start if it is of a member. */
static __noinline void flow_start(struct question *question, bool midstream)
{
	const struct packet *pkt = &question->packet;
	const struct judgement *answer = &question->answer;
	struct flow flow = {
		.started = clock_ns(),
		.seen = clock_jiffies(),
		.generation = question->control.generation,
		.outcome = answer->outcome,
		.member = answer->member,
		.ifindex = question->ifindex,
		.direction = answer->direction,
		.state = FLOW_OPENING,
		.flags = (answer->expires ? FLOW_EXPIRES : 0) |
			 (answer->would_be == VERDICT_DENY ? FLOW_WOULD_BE_DENIED : 0) |
			 (midstream ? FLOW_MIDSTREAM : 0) | (answer->unlisted ? FLOW_UNLISTED : 0) |
			 flow_fin(pkt),
		.reason = answer->reason,
		.category = answer->category,
		.arrives = question->forwarded ? 0 : 1 << (pkt->end & 1),
	};

	question->ours = true;
	flow_begin_numbers(&flow, pkt);
	flow.packets[pkt->end & 1] = 1;
	flow.bytes[pkt->end & 1] = pkt->length;
	/* Another CPU may have entered it in the same moment, and told. */
	if (flow_insert(pkt, FLOW_TABLE_OPENING, &flow) != 0 &&
	    (flow_find(pkt, FLOW_TABLE_OPENING) || flow_find(pkt, FLOW_TABLE_ESTABLISHED)))
		return;
	if (!answer->unlisted)
		report_start(pkt, answer, &flow, question->ifindex, question->control.generation);
}

/* Apart, and not one within the other: their stacks together are too large for kernels before 6.12. */
static __always_inline void flow_open(struct question *question, bool midstream)
{
	if (question->crossed)
		flow_make_way(question);
	flow_start(question, midstream);
}

/*
 * The questions, in order. Every packet gets an answer. True if it is a denial, or
 * would be one, which is to be told.
 */
static __always_inline bool decide_denies(context *ctx, struct question *question, enum reason parsed)
{
	struct packet *pkt = &question->packet;
	struct judgement *answer = &question->answer;
	bool midstream, concerned;

	if (question->control.generation == 0) {
		pass(answer, pkt, REASON_NO_POLICY);
		return false;
	}
	if (parsed == REASON_NOT_IP) {
		pass(answer, pkt, REASON_NOT_IP);
		return false;
	}
	if (parsed == REASON_NONE && pkt->fragment == FRAGMENT_LATER) {
		parsed = fragment_follow(pkt);
		if (parsed == REASON_FRAGMENT_FOLLOWS) {
			pass(answer, pkt, REASON_FRAGMENT_FOLLOWS);
			return false;
		}
	}
	if (parsed != REASON_NONE)
		return decide_unjudgeable(question, parsed);
	concerned = policy_concerns(&question->control, pkt);
	if (concerned && decide_by_flow(question))
		return false;
	if (failsafe_allows(pkt)) {
		pass(answer, pkt, REASON_LINK_FAILSAFE);
		return false;
	}
	/* An error about a flow of ours may leave with the address of a router behind the interface. */
	if (!concerned && !(pkt->end == END_FROM && pkt->icmp_kind == ICMP_KIND_ERROR)) {
		pass(answer, pkt, REASON_UNGOVERNED);
		answer->direction = packet_opener(pkt);
		return false;
	}
	if (question->arrives && pkt->end == END_TOWARDS && policy_peer_is_here(&question->control, pkt)) {
		pkt->family = 0; /* wherever it goes: errors about it would come back here */
		return decide_unjudgeable(question, REASON_FORGED_SOURCE);
	}
	if (pkt->icmp_kind == ICMP_KIND_ERROR && decide_by_quoted_flow(ctx, question))
		return false;

	midstream = decide_by_policy(question);
	if (answer->reason == REASON_UNGOVERNED) {
		/*
		 * To a port that no member of the address lists. Its answers leave
		 * from an address whose outbound traffic is a member's, so without
		 * a flow they would be judged as the member's own.
		 */
		if (answer->unlisted && !midstream)
			flow_open(question, false);
		return false;
	}
	if (answer->verdict == VERDICT_DENY)
		return true;
	if (!(midstream && pkt->tcp_flags & TCP_RST)) /* a reset opens nothing */
		flow_open(question, midstream);
	return false;
}

/* Reports in one place: a chain of calls has 512 bytes of stack, and this takes half of it. */
static __always_inline void decide(context *ctx, struct question *question, enum reason parsed)
{
	if (decide_denies(ctx, question, parsed))
		report_denial(&question->packet, &question->answer, question->ifindex, question->control.generation);
}

/* The only way out. Counts the packet; true if it may pass. */
static __always_inline bool leave(context *ctx, const struct question *question)
{
	const struct packet *pkt = &question->packet;
	const struct judgement *answer = &question->answer;

	if (pkt->fragment == FRAGMENT_FIRST && (answer->reason != REASON_UNGOVERNED || answer->unlisted))
		fragment_remember(pkt, answer->verdict);
	if (question->ours || answer->verdict == VERDICT_DENY)
		report_packet(answer->reason, pkt->length ? pkt->length : context_length(ctx));
	return answer->verdict == VERDICT_ALLOW;
}

#endif
