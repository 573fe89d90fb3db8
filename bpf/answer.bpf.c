// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Answers to members' questions, read in the data path: the addresses in them are
 * open before the packet goes on to who asked. Needs bpf_loop (Linux 5.17); before
 * that dns_forward takes its place. Entered by a tail call from perimeter.bpf.c,
 * of a packet that was allowed. Whatever it finds, the packet goes on.
 */
#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>

#include <bpf/bpf_helpers.h>

#include "context.h"
#include "dns.h"
#include "flow.h"
#include "name_maps.h"
#include "names.h"
#include "policy.h"
#include "question.h"
#include "settings.h"
#include "shared_types.h"
#include "skb.h"

char _license[] SEC("license") = "Dual BSD/GPL";

/* What the steps of a loop share. */
struct reading {
	struct dns *dns;
	struct dns_name *name;
	__u32 said;		/* an enum dns_step */
};

static long read_name_step(__u32 i, struct reading *reading)
{
	reading->said = dns_name_step(reading->dns, reading->name);
	return reading->said != DNS_MORE;
}

/* Reads the name at `at`; dns->after is then what follows it. DNS_DONE, or what is wrong. */
static __noinline __u32 read_name(struct dns *dns, struct dns_name *name, __u32 at)
{
	struct reading reading = {.dns = dns, .name = name, .said = NAME_MALFORMED_NAME};

	dns_name_begin(dns, name, at);
	bpf_loop(DNS_STEPS, read_name_step, &reading, 0);
	return reading.said == DNS_MORE ? NAME_MALFORMED_NAME : reading.said;
}

/* What the steps through an answer share. */
struct answering {
	struct dns *dns;
	__u32 at;		/* the next record */
	__u32 said;
};

static __always_inline __u32 answer_least(__u32 a, __u32 b)
{
	return a < b ? a : b;
}

/* One record. 0: go on. */
static __always_inline __u32 answer_record(struct dns *dns, struct answering *answering)
{
	__u32 at = answering->at, length = forget(dns->length);
	__u32 wanted_at = forget(dns->wanted_at);
	__u32 type, class, ttl, size, end, said;
	bool owned;

	if (at + 2 > length)
		return NAME_MALFORMED_RECORD;
	if (dns_u16(dns, at) == (0xc000 | wanted_at)) {
		owned = true; /* a pointer to just that name */
		at += 2;
	} else {
		said = read_name(dns, &dns->owner, at);
		if (said != DNS_DONE)
			return said;
		owned = dns_name_equals(&dns->owner, dns->wanted.text) && !forget(dns->wanted.odd);
		at = forget(dns->after);
	}
	if (at + 10 > length || at > DNS_MESSAGE_MAX)
		return NAME_MALFORMED_RECORD;
	type = dns_u16(dns, at);
	class = dns_u16(dns, at + 2);
	ttl = dns_u16(dns, at + 4) << 16 | dns_u16(dns, at + 6);
	size = dns_u16(dns, at + 8);
	at += 10;
	end = at + size;
	if (end > length)
		return NAME_MALFORMED_RECORD;
	answering->at = end;
	if (class != DNS_CLASS_IN)
		return 0;
	if (type == DNS_TYPE_A || type == DNS_TYPE_AAAA) {
		__u32 n = forget(dns->records);

		if (size != (type == DNS_TYPE_A ? 4 : 16))
			return NAME_MALFORMED_RECORD;
		if (!owned) {
			dns_count(NAME_ADDRESS_OTHER_OWNER);
			return 0;
		}
		if (n >= DNS_RECORDS_MAX)
			return NAME_LEFT_TOO_DEEP;
		dns->found[n].at = at;
		dns->found[n].type = type;
		dns->found[n].ttl = answer_least(ttl, forget(dns->ttl));
		dns->records = n + 1;
		return 0;
	}
	if (type != DNS_TYPE_CNAME)
		return 0;
	/* What an alias of another name says is of no interest, but it must be well-formed. */
	said = read_name(dns, owned ? &dns->wanted : &dns->owner, at);
	if (said != DNS_DONE)
		return said;
	if (forget(dns->after) != end)
		return NAME_MALFORMED_RECORD;
	if (!owned)
		return 0;
	if (forget(dns->aliases) >= DNS_ALIASES_MAX)
		return NAME_LEFT_TOO_DEEP;
	dns->aliases = forget(dns->aliases) + 1;
	dns->wanted_at = at;
	dns->ttl = answer_least(ttl, forget(dns->ttl));
	return 0;
}

static long answer_record_step(__u32 i, struct answering *answering)
{
	answering->said = answer_record(answering->dns, answering);
	return answering->said != 0;
}

/* What the steps of opening share. */
struct opening {
	struct dns *dns;
	void *sets;		/* of the generation */
	__u32 set;
	__u32 count;		/* of sets */
	__u32 record;
};

static long open_step(__u32 i, struct opening *opening)
{
	struct dns *dns = opening->dns;
	__u32 at = opening->set + i;
	__u64 *set = bpf_map_lookup_elem(opening->sets, &at);

	if (!set || *set == 0)
		return 1;
	dns->opened.set = *set;
	dns->learnt.since = 0;
	dns->learnt.used = 0;
	names_open(dns);
	return 0;
}

/* True for an address that a host may have. */
static __always_inline bool open_is_usable(const struct dns *dns)
{
	const struct address *a = &dns->opened.address;
	__u32 first = bpf_ntohl(a->word_be[0]);

	if (dns->opened.family == 4)
		return first >> 24 != 0 && first >> 24 != 127 && first >> 28 < 0xe;
	if (first >> 24 == 0xff)
		return false;
	/* ::, ::1, and IPv4 in disguise, which no packet carries. */
	return a->word_be[0] || a->word_be[1] || (a->word_be[2] && a->word_be[2] != bpf_htonl(0xffff));
}

static long open_record_step(__u32 i, struct opening *opening)
{
	struct dns *dns = opening->dns;
	struct dns_record *record;
	__u32 at;

	if (i >= DNS_RECORDS_MAX || i >= forget(dns->records))
		return 1;
	record = &dns->found[i];
	at = forget(record->at);
	if (at > DNS_MESSAGE_MAX - 16)
		at = DNS_MESSAGE_MAX - 16; /* cannot be: see answer_tail */
	dns->opened.address = (struct address){};
	if (forget(record->type) == DNS_TYPE_A) {
		dns->opened.family = 4;
		__builtin_memcpy(&dns->opened.address, &dns->message[at], 4);
	} else {
		dns->opened.family = 6;
		__builtin_memcpy(&dns->opened.address, &dns->message[at], 16);
	}
	dns->opened.pad = 0;
	if (!open_is_usable(dns)) {
		dns_count(NAME_ADDRESS_UNUSABLE);
		return 0;
	}
	dns->learnt.expires = names_expiry(forget(record->ttl));
	dns->learnt.by = LEARNT_INLINE;
	bpf_loop(opening->count, open_step, opening, 0);
	return 0;
}

/* Opens what was found for the sets that cover the question, in the generation of `control`. */
static __noinline int open_all(struct dns *dns, struct question *question, __u32 ahead)
{
	struct control control = question->control;
	struct opening opening = {.dns = dns};
	__u64 meaning;
	__u32 slot;

	control.generation += ahead;
	if (ahead) /* its flags are not known here */
		control.flags |= CONTROL_LOCAL_PREFIXES4 | CONTROL_LOCAL_PREFIXES6;
	meaning = names_meaning(&control, &question->packet, &dns->question);
	if (meaning == NAMES_UNGOVERNED || meaning == 0)
		return 0;
	slot = policy_slot(&control);
	opening.sets = bpf_map_lookup_elem(&name_sets, &slot);
	if (!opening.sets)
		return 0;
	opening.set = (__u32)meaning;
	opening.count = meaning >> 32;
	if (opening.count > NAME_SETS_MAX)
		opening.count = NAME_SETS_MAX;
	bpf_loop(DNS_RECORDS_MAX, open_record_step, &opening, 0);
	return 0;
}

/* Reads the answer section. 0, or what is wrong. */
static __noinline __u32 answer_read(struct dns *dns)
{
	struct answering answering = {.dns = dns, .at = forget(dns->after) + 4};
	__u32 count = dns_u16(dns, 6);

	dns_name_clear(&dns->wanted);
	dns_name_copy(dns->wanted.text, &dns->question);
	dns->wanted.length = forget(dns->question.length);
	dns->wanted_at = DNS_HEADER;
	dns->ttl = ~0U;
	dns->aliases = 0;
	dns->records = 0;
	if (count > DNS_RECORDS_MAX + DNS_ALIASES_MAX)
		return NAME_LEFT_TOO_DEEP;
	bpf_loop(count, answer_record_step, &answering, 0);
	return answering.said;
}

/* True for an answer to a query, with one question. */
static __always_inline bool answer_has_header(const struct dns *dns)
{
	return (dns->message[2] & 0xf8) == 0x80 && dns_u16(dns, 4) == 1;
}

/* True if a flow that the member opened carries the packet. */
static __always_inline bool answer_has_flow(const struct packet *pkt)
{
	struct flow *flow = flow_find(pkt, FLOW_TABLE_ESTABLISHED);

	if (!flow)
		flow = flow_find(pkt, FLOW_TABLE_OPENING);
	return flow && flow->direction == DIRECTION_OUTBOUND && !(flow->flags & FLOW_UNLISTED);
}

static __always_inline bool answer_is_trusted(const struct packet *pkt)
{
	return !settings.resolvers_listed || bpf_map_lookup_elem(&resolvers, &pkt->peer);
}

/* What came of the answer. */
static __always_inline __u32 answer_judge(context *skb, struct question *question, struct dns *dns)
{
	const struct packet *pkt = &question->packet;
	struct query *query;
	__u32 said, why = 0, at;

	if (!answer_has_flow(pkt))
		return NAME_NO_FLOW;
	if (!dns_load(skb, dns, pkt, DNS_MESSAGE_MAX) || !answer_has_header(dns))
		return NAME_MALFORMED_HEADER;
	dns_query_key(dns, pkt);
	query = bpf_map_lookup_elem(&queries, &dns->key);
	if (!query || clock_jiffies() - query->asked > (__u64)DNS_PATIENCE * settings.ticks)
		return NAME_NO_QUESTION;
	if (!answer_is_trusted(pkt))
		return NAME_UNLISTED_RESOLVER;
	said = read_name(dns, &dns->question, DNS_HEADER);
	if (said != DNS_DONE)
		return said;
	at = forget(dns->after);
	if (at + 4 > forget(dns->length))
		return NAME_MALFORMED_RECORD;
	if (forget(dns->pointers) || dns_u16(dns, at) != query->type || dns_u16(dns, at + 2) != DNS_CLASS_IN ||
	    !dns_name_equals(&dns->question, query->name))
		return NAME_OTHER_QUESTION;

	if (dns->message[2] & 0x02)
		why = NAME_LEFT_TRUNCATED;
	else if (forget(dns->whole) > forget(dns->length) || skb->gso_size)
		why = NAME_LEFT_TOO_LONG;
	else if (dns->message[3] & 0x0f)
		said = NAME_OPENED_NOTHING;
	else
		said = answer_read(dns);
	if (said == NAME_LEFT_TOO_DEEP)
		why = said;
	if (why) {
		names_leave_to_agent(dns, pkt, query, why);
		return 0; /* counted there */
	}
	bpf_map_delete_elem(&queries, &dns->key); /* each question has one answer */
	if (said)
		return said;
	if (forget(dns->records) == 0)
		return NAME_OPENED_NOTHING;
	dns_name_copy(dns->learnt.name, &dns->question);
	open_all(dns, question, 0);
	if (question->control.flags & CONTROL_NEXT)
		open_all(dns, question, 1);
	return NAME_ANSWERS;
}

SEC("tc") int dns_answer(context *skb)
{
	__u32 slot = QUESTION_PACKET, packet = DNS_PACKET;
	struct question *question = bpf_map_lookup_elem(&questions, &slot);
	struct dns *dns = bpf_map_lookup_elem(&dns_scratch, &packet);
	__u32 said;

	if (!question || !dns)
		return TC_NEXT;
	said = answer_judge(skb, question, dns);
	if (said)
		dns_count(said);
	return TC_NEXT;
}
