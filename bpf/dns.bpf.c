// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The programs for names that every kernel can verify: questions of members, the
 * decision about them, and what the agent learns. They are entered by a tail
 * call from perimeter.bpf.c, with the packet's question as that has left it.
 */
#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>

#include <bpf/bpf_helpers.h>

#include "clock.h"
#include "context.h"
#include "decide.h"
#include "dns.h"
#include "name_maps.h"
#include "names.h"
#include "question.h"
#include "report.h"
#include "settings.h"
#include "shared_types.h"
#include "skb.h"

char _license[] SEC("license") = "Dual BSD/GPL";

/* What is read of a question: a header, a name, type and class, and some of what may follow. */
#define QUERY_BYTES 512

/* A step through the name of the packet's question. A global function, which the verifier looks at once. */
__noinline int query_step(__u32 slot)
{
	struct dns *dns = bpf_map_lookup_elem(&dns_scratch, &slot);

	return dns ? (int)dns_name_step(dns, &dns->question) : NAME_MALFORMED_NAME;
}

/*
 * Reads the name of a question, which nothing can precede that it might point to.
 * False if there is none, or it is not a single plain one.
 */
static __noinline int query_read(context *ctx, struct dns *dns, const struct packet *pkt)
{
	__u32 step = DNS_MORE, at;

	if (!dns_load(ctx, dns, pkt, QUERY_BYTES))
		return false;
	/* A query, of one question. */
	if (dns->message[2] & 0xf8 || dns_u16(dns, 4) != 1)
		return false;
	dns_name_begin(dns, &dns->question, DNS_HEADER);
	for (int i = 0; i < 256; i++) {
		step = query_step(DNS_PACKET);
		if (step != DNS_MORE)
			break;
	}
	at = forget(dns->after);
	if (step != DNS_DONE || forget(dns->pointers) || at + 4 > forget(dns->length))
		return false;
	dns->query.type = dns_u16(dns, at);
	return dns_u16(dns, at + 2) == DNS_CLASS_IN;
}

/* Notes a question to one of the member's names, so that its answer is believed. */
static __always_inline void query_remember(struct dns *dns, const struct packet *pkt)
{
	dns_query_key(dns, pkt);
	dns->query.asked = clock_jiffies();
	dns->query.pad = 0;
	dns_name_copy(dns->query.name, &dns->question);
	if (bpf_map_update_elem(&queries, &dns->key, &dns->query, BPF_ANY) == 0)
		dns_count(NAME_QUESTIONS);
}

/*
 * Denies a question in strict mode, and reports it with its name. Each is told
 * by itself: what is asked is what is to be known.
 */
static __noinline int query_deny(struct question *question, struct dns *dns, __u32 reason)
{
	const struct packet *pkt = &question->packet;
	struct judgement *answer = &question->answer;
	struct local *local = policy_local(&question->control, pkt);
	struct decision_count *count;
	struct named_event *event;

	answer_without_policy(answer, reason, VERDICT_DENY, pkt->end);
	if (local) {
		answer->member = local->outbound;
		if (!(local->flags & LOCAL_STRICT_OUTBOUND))
			answer->verdict = VERDICT_ALLOW; /* Audit and Learning tell what would be */
	}
	answer->would_be = VERDICT_DENY;
	answer->category = NspPublicOutboundPerimeterRulesDenied;
	count = report_category(answer->category);
	if (!count)
		return 0;
	count->decided++;
	event = bpf_ringbuf_reserve(&denial_events, sizeof(*event), 0);
	if (!event) {
		count->lost++;
		return 0;
	}
	count->submitted++;
	report_fill(&event->event, pkt, answer, NULL, question->ifindex, question->control.generation,
		    clock_ns());
	event->event.kind = EVENT_DENIED;
	dns_name_copy(event->name, &dns->question);
	bpf_ringbuf_submit(event, report_wake_up(&denial_events));
	return 0;
}

SEC("tc") int dns_query(context *skb)
{
	__u32 slot = QUESTION_PACKET, packet = DNS_PACKET;
	struct question *question = bpf_map_lookup_elem(&questions, &slot);
	struct dns *dns = bpf_map_lookup_elem(&dns_scratch, &packet);
	__u64 meaning;
	bool read;

	if (!question || !dns)
		return TC_DROP;
	dns_name_clear(&dns->question);
	read = query_read(skb, dns, &question->packet);
	meaning = names_meaning(&question->control, &question->packet, &dns->question);
	if (settings.dns_strict && meaning != NAMES_UNGOVERNED && (!read || meaning == 0)) {
		query_deny(question, dns, read ? REASON_QUESTION_NOT_ALLOWED : REASON_QUESTION_UNREADABLE);
		if (question->answer.verdict == VERDICT_DENY) {
			leave(skb, question);
			return TC_DROP;
		}
	}
	if (read && meaning != NAMES_UNGOVERNED && meaning != 0)
		query_remember(dns, &question->packet);
	bpf_tail_call(skb, &dns_programs, DNS_PROGRAM_FROM);
	return TC_DROP; /* cannot be: it is entered before this program is */
}

/* The second half of `from`, after dns_query. */
SEC("tc") int dns_from(context *skb)
{
	__u32 slot = QUESTION_PACKET;
	struct question *question = bpf_map_lookup_elem(&questions, &slot);

	if (!question)
		return TC_DROP;
	decide(skb, question, REASON_NONE);
	return leave(skb, question) ? TC_NEXT : TC_DROP;
}

/* What the agent hands to dns_teach, behind an Ethernet header. */
struct lesson {
	struct learnt_key key;
	struct learnt learnt;
};

#define ETHERNET_HEADER 14

/* Opens an address that the agent has learnt: as data of a test run, so that there is one way to do it. */
SEC("tc") int dns_teach(context *skb)
{
	__u32 teach = DNS_TEACH;
	struct dns *dns = bpf_map_lookup_elem(&dns_scratch, &teach);

	if (!dns)
		return TC_DROP;
	if (bpf_skb_load_bytes(skb, ETHERNET_HEADER, &dns->opened, sizeof(dns->opened)) != 0 ||
	    bpf_skb_load_bytes(skb, ETHERNET_HEADER + sizeof(dns->opened), &dns->learnt, sizeof(dns->learnt)) != 0)
		return TC_DROP;
	names_open(dns);
	return TC_NEXT;
}

/* Where the kernel cannot loop in the data path: hands an answer to the agent, which reads it. */
SEC("tc") int dns_forward(context *skb)
{
	__u32 slot = QUESTION_PACKET, packet = DNS_PACKET;
	struct question *question = bpf_map_lookup_elem(&questions, &slot);
	struct dns *dns = bpf_map_lookup_elem(&dns_scratch, &packet);
	struct query *query;

	if (!question || !dns || !dns_load(skb, dns, &question->packet, DNS_MESSAGE_MAX))
		return TC_NEXT;
	dns_query_key(dns, &question->packet);
	query = bpf_map_lookup_elem(&queries, &dns->key);
	if (!query)
		dns_count(NAME_NO_QUESTION);
	else
		names_leave_to_agent(dns, &question->packet, query,
				     forget(dns->whole) > forget(dns->length) ? NAME_LEFT_TOO_LONG : NAME_LEFT_NOT_READ);
	return TC_NEXT;
}
