// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The programs of perimeter.bpf.c for the frames of a capture: run one by one
 * by user space, on the capture's clock, with tables of their own, attached to
 * nothing. They also tell what was answered. See README.md.
 */
#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>

#include "context.h"
#include "flow.h"
#include "policy.h"
#include "question.h"
#include "shared_types.h"
#include "skb.h"
#include "types.h"

char _license[] SEC("license") = "Dual BSD/GPL";

/* Packets of a flow, and fragments, pass without asking whose they are; for people, that is looked up. */
static __noinline int name_flow(struct question *question)
{
	struct judgement *answer = &question->answer;
	const struct packet *pkt = answer->reason == REASON_RELATED ? &question->quoted : &question->packet;
	struct local *local;
	struct flow *flow;

	if (answer->reason == REASON_FRAGMENT_FOLLOWS) {
		local = policy_local(&question->control, pkt);
		if (local)
			answer->member = local->outbound;
		return 0;
	}
	if (answer->reason != REASON_ESTABLISHED && answer->reason != REASON_RELATED)
		return 0;
	flow = flow_find(pkt, FLOW_TABLE_ESTABLISHED);
	if (!flow)
		flow = flow_find(pkt, FLOW_TABLE_OPENING);
	if (!flow)
		return 0;
	answer->outcome = flow->outcome;
	answer->member = flow->member;
	answer->direction = flow->direction;
	return 0;
}

static __always_inline int replay_skb(context *skb, __u32 end)
{
	int verdict = judge_skb(skb, end, PART_FRAME);
	__u32 slot = QUESTION_PACKET;
	struct question *question = bpf_map_lookup_elem(&questions, &slot);

	if (!question)
		return verdict;
	name_flow(question);
	skb_answer(skb, question);
	return verdict;
}

SEC("tc") int replay_towards(context *skb)
{
	return replay_skb(skb, END_TOWARDS);
}

SEC("tc") int replay_from(context *skb)
{
	return replay_skb(skb, END_FROM);
}
