// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The programs. Each says which end of the packet it judges and whether frames
 * have a link header; all else is the same for all of them. See README.md.
 */
#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>
#include <stddef.h>

#include <bpf/bpf_helpers.h>

#include "context.h"
#include "decide.h"
#include "failsafe.h"
#include "policy.h"
#include "question.h"
#include "shared_types.h"
#include "skb.h"

char _license[] SEC("license") = "Dual BSD/GPL";

SEC("tc") int towards(context *skb)
{
	return judge_skb(skb, END_TOWARDS, PART_FRAME);
}

SEC("tc") int from(context *skb)
{
	return judge_skb(skb, END_FROM, PART_FRAME);
}

/* For devices without a link header: tun, WireGuard, IPIP, PPP. */
SEC("tc") int towards_l3(context *skb)
{
	return judge_skb(skb, END_TOWARDS, PART_NETWORK);
}

SEC("tc") int from_l3(context *skb)
{
	return judge_skb(skb, END_FROM, PART_NETWORK);
}

/*
 * Answers in skb->cb (see skb_answer) what would become of the frame if it were
 * the first of its flow, without a trace in any table: the same parser, the same
 * judge.
 */
static __always_inline int explain_skb(context *skb, __u32 end)
{
	struct question *question = question_open(skb, QUESTION_EXPLAIN);
	struct judgement *answer;
	enum reason parsed;

	if (!question)
		return TC_NEXT;
	answer = &question->answer;
	parsed = question_read(skb, question, QUESTION_EXPLAIN, PART_FRAME, end);
	if (question->control.generation == 0)
		pass(answer, &question->packet, REASON_NO_POLICY);
	else if (parsed != REASON_NONE)
		pass(answer, &question->packet, parsed);
	else if (failsafe_allows(&question->packet))
		pass(answer, &question->packet, REASON_LINK_FAILSAFE);
	else
		decide_by_policy(question);
	skb_answer(skb, question);
	return TC_NEXT;
}

SEC("tc") int explain_towards(context *skb)
{
	return explain_skb(skb, END_TOWARDS);
}

SEC("tc") int explain_from(context *skb)
{
	return explain_skb(skb, END_FROM);
}

/*
 * Tells the agent both clocks at once, in skb->cb: jiffies, then nanoseconds
 * since boot, each low half first. Flows are stamped in the one, people read
 * the other.
 */
SEC("tc") int read_clocks(context *skb)
{
	__u64 jiffies = bpf_jiffies64(), ns = bpf_ktime_get_boot_ns();

	skb->cb[0] = (__u32)jiffies;
	skb->cb[1] = jiffies >> 32;
	skb->cb[2] = (__u32)ns;
	skb->cb[3] = ns >> 32;
	return TC_NEXT;
}
