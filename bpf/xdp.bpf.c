// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The programs for XDP, where packets come in before the kernel has made an skb
 * of them: the same decisions, on the same tables, as TC's. What can be decided
 * is decided here; the rest goes on to TC without a note. See README.md.
 */
#define HOOK_XDP

#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>

#include <bpf/bpf_helpers.h>

#include "context.h"
#include "decide.h"
#include "handover.h"
#include "maps.h"
#include "question.h"
#include "settings.h"
#include "shared_types.h"
#include "types.h"

char _license[] SEC("license") = "Dual BSD/GPL";

/* Writes the note, for which there must be room. False: there is none. */
static __always_inline bool note_write(context *xdp, __u32 judged)
{
	struct handover *note = (void *)(long)xdp->data_meta;

	if ((void *)(note + 1) > (void *)(long)xdp->data)
		return false;
	note->instance = settings.instance;
	note->judged = judged;
	note->pad = 0;
	return true;
}

/* Makes room for the note, and an empty note. False if the driver takes none; that is counted. */
static __always_inline bool note_open(context *xdp)
{
	__u32 ifindex = context_ifindex(xdp);
	__u64 one = 1, *count;

	if (bpf_xdp_adjust_meta(xdp, -(int)sizeof(struct handover)) == 0 && note_write(xdp, 0))
		return true;
	count = bpf_map_lookup_elem(&xdp_without_note, &ifindex);
	if (count)
		__sync_fetch_and_add(count, 1);
	else
		bpf_map_update_elem(&xdp_without_note, &ifindex, &one, BPF_NOEXIST);
	return false;
}

static __always_inline int judge_xdp(context *xdp, __u32 end)
{
	struct question *question;
	enum reason parsed;

	if (!note_open(xdp))
		return XDP_PASS;
	question = question_open(xdp, QUESTION_PACKET);
	if (!question)
		return XDP_PASS;
	question->forwarded = false;
	question->arrives = true;
	question->ours = true;
	parsed = question_read(xdp, question, QUESTION_PACKET, PART_FRAME, end);
	/* TC sees what is not at hand here, and whether a length that cannot be is that of segments. */
	if (parsed != REASON_NONE && parsed != REASON_NOT_IP)
		return XDP_PASS;
	if (question_is_dns(question, parsed))
		return XDP_PASS; /* names are learnt at TC */
	decide(xdp, question, parsed);
	if (!leave(xdp, question))
		return XDP_DROP;
	note_write(xdp, handover_judged(question->ifindex, end));
	return XDP_PASS;
}

SEC("xdp") int xdp_towards(context *xdp)
{
	return judge_xdp(xdp, END_TOWARDS);
}

SEC("xdp") int xdp_from(context *xdp)
{
	return judge_xdp(xdp, END_FROM);
}
