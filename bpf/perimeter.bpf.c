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

#include "clock.h"
#include "context.h"
#include "decide.h"
#include "maps.h"
#include "packet.h"
#include "policy.h"
#include "question.h"
#include "types.h"

char _license[] SEC("license") = "Dual BSD/GPL";

/*
 * The types user space needs by name. Never used: clang leaves out of BTF what only
 * inner maps, pointers or constants mention.
 */
struct shared_types {
	struct address address;
	struct prefix_key4 prefix_key4;
	struct prefix_key6 prefix_key6;
	struct local local;
	struct member member;
	struct span span;
	struct span_list span_list;
	struct scope_class scope_class;
	struct outcome outcome;
	struct denial_key denial_key;
	struct denial denial;
	struct event event;
	enum reason reason;
	enum category category;
	enum verdict verdict;
	enum direction direction;
	enum event_kind event_kind;
	enum control_flag control_flag;
	enum local_flag local_flag;
	enum interface_flag interface_flag;
	enum flow_state flow_state;
	enum flow_flag flow_flag;
	enum timeout_row timeout_row;
};
const struct shared_types *const shared_types = NULL;

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

static __always_inline int judge_skb(context *skb, __u32 end, enum part part)
{
	struct question *question;

	question = question_open(skb, QUESTION_PACKET);
	if (!question)
		return TC_NEXT;
	/* A bridge between puts its own number there, so the flow tells by which way it comes. */
	question->forwarded = skb->ingress_ifindex != 0 && skb->ingress_ifindex != skb->ifindex;
	question->ours = !judged_on_arrival(skb, end);
	decide(skb, question, question_read(skb, question, QUESTION_PACKET, part, end));
	return leave(question, context_length(skb)) ? TC_NEXT : TC_DROP;
}

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
 * Answers in skb->cb what would become of the frame if it were the first of its
 * flow, without a trace in any table: the same parser, the same judge.
 *   cb[0] outcome, cb[1] member, cb[2] generation,
 *   cb[3] reason | category << 8 | verdict << 16 | would_be << 24,
 *   cb[4] direction
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
	skb->cb[0] = answer->outcome;
	skb->cb[1] = answer->member;
	skb->cb[2] = question->control.generation;
	skb->cb[3] = answer->reason | answer->category << 8 | answer->verdict << 16 | (__u32)answer->would_be << 24;
	skb->cb[4] = answer->direction;
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
