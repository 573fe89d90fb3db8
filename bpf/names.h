/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What names mean to members, and learning their addresses. Opening an address
 * here is what lets policy_names find it.
 */
#ifndef PERIMETERD_NAMES_H
#define PERIMETERD_NAMES_H

#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>

#include <bpf/bpf_helpers.h>

#include "clock.h"
#include "dns.h"
#include "maps.h"
#include "name_maps.h"
#include "packet.h"
#include "policy.h"
#include "settings.h"
#include "types.h"

#define NAMES_UNGOVERNED (1ULL << 63) /* no member's, or of one whose rules have no names */

/*
 * The sets of the packet's member that have a name which covers this one, as a
 * span list packed like policy_meaning's; 0 if none has, NAMES_UNGOVERNED if the
 * member has no names at all.
 */
static __always_inline __u64 names_meaning(const struct control *control, const struct packet *pkt,
					   struct dns_name *name)
{
	__u32 slot = policy_slot(control);
	struct local *local = policy_local(control, pkt);
	__u32 length = forget(name->length);
	struct scope_class key = {};
	struct span_list *sets;
	struct member *member;
	__u32 start, number, *class;
	void *inner;
	__u8 *at;

	if (!local || local->outbound == MEMBER_NONE)
		return NAMES_UNGOVERNED;
	number = local->outbound;
	inner = bpf_map_lookup_elem(&members, &slot);
	member = inner ? bpf_map_lookup_elem(inner, &number) : NULL;
	if (!member || !(member->names.first | member->names.count))
		return NAMES_UNGOVERNED;
	if (length == 0 || length > DNS_NAME_MAX || forget(name->odd))
		return 0;
	inner = bpf_map_lookup_elem(&name_classes, &slot);
	if (!inner)
		return 0;
	start = dns_within(NAME_TEXT - 1 - length, NAME_TEXT - 1);
	at = name->before + 4 + start; /* the length of the key, which stands before the text */
	*(__u32 *)at = (length + 1) * 8;
	class = bpf_map_lookup_elem(inner, at);
	*(__u32 *)at = 0;
	if (!class)
		return 0;
	key.scope = member->scope[DIRECTION_OUTBOUND];
	key.class = *class;
	inner = bpf_map_lookup_elem(&name_meanings, &slot);
	sets = inner ? bpf_map_lookup_elem(inner, &key) : NULL;
	return sets ? sets->first | (__u64)sets->count << 32 : 0;
}

/* Of how many slots in a row the one whose address was idle for longest makes room. */
#define LEARNT_SAMPLE 8

/* Finds a slot for dns->opened in its set; whose it was makes room. */
static __always_inline void names_take_slot(struct dns *dns)
{
	struct learnt_set *set = bpf_map_lookup_elem(&learnt_sets, &dns->opened.set);
	__u64 longest = 0;
	__u32 slot = 0, limit;
	bool idle = true;

	dns->learnt.slot = ~0U; /* none, unless it gets one */
	if (!set || set->limit == 0)
		return;
	limit = set->limit;
	dns->slot.set = dns->opened.set;
	dns->slot.pad = 0;
	for (int i = 0; i < LEARNT_SAMPLE; i++) {
		struct learnt_key *occupant;
		struct learnt *old;
		__u64 last;

		dns->slot.slot = set->next % limit;
		__sync_fetch_and_add(&set->next, 1);
		occupant = bpf_map_lookup_elem(&learnt_slots, &dns->slot);
		old = occupant ? bpf_map_lookup_elem(&learnt_addresses, occupant) : NULL;
		if (!old || old->slot != dns->slot.slot) {
			idle = false; /* nobody's */
			break;
		}
		last = old->used > old->since ? old->used : old->since;
		if (i == 0 || last < longest) {
			longest = last;
			dns->victim = *occupant;
			slot = dns->slot.slot;
		}
	}
	if (idle) {
		dns->slot.slot = slot;
		if (bpf_map_delete_elem(&learnt_addresses, &dns->victim) == 0)
			dns_count(NAME_ADDRESS_EVICTED);
	}
	dns->learnt.slot = dns->slot.slot;
	bpf_map_update_elem(&learnt_slots, &dns->slot, &dns->opened, BPF_ANY);
}

/*
 * Opens dns->opened as dns->learnt says, of which all but the slot are set; since
 * 0 is now. What is open already is only prolonged: an answer never shortens what another
 * gave.
 */
static __noinline int names_open(struct dns *dns)
{
	struct learnt *old = bpf_map_lookup_elem(&learnt_addresses, &dns->opened);
	__u64 now = clock_jiffies();

	if (old) {
		if (old->expires == dns->learnt.expires && old->by == dns->learnt.by)
			return 0; /* the same answer, for the generation to come */
		dns->learnt.used = old->used;
		dns->learnt.since = old->since;
		dns->learnt.slot = old->slot;
		if (old->expires > dns->learnt.expires)
			dns->learnt.expires = old->expires;
		if (bpf_map_update_elem(&learnt_addresses, &dns->opened, &dns->learnt, BPF_EXIST) == 0) {
			dns_count(NAME_ADDRESS_PROLONGED);
			return 0;
		}
	}
	if (dns->learnt.since == 0)
		dns->learnt.since = now;
	names_take_slot(dns);
	if (bpf_map_update_elem(&learnt_addresses, &dns->opened, &dns->learnt, BPF_ANY) == 0)
		dns_count(NAME_ADDRESS_OPENED);
	else
		dns_count(NAME_ADDRESS_FULL);
	return 0;
}

/* Hands the message and what was asked to the agent. The question stays, until it is old. */
static __always_inline void names_leave_to_agent(struct dns *dns, const struct packet *pkt, const struct query *query,
						 __u32 why)
{
	__u32 length = forget(dns->length);
	const __u64 *from = (const __u64 *)query->name;
	__u64 *to = (__u64 *)dns->report.name;

	dns_count(why);
	dns->report.local = pkt->local;
	dns->report.peer = pkt->peer;
	dns->report.family = pkt->family;
	dns->report.why = why;
	dns->report.type = query->type;
	dns->report.length = length;
	for (int i = 0; i < NAME_TEXT / 8; i++)
		to[i] = from[i];
	length = dns_within(length - 1, DNS_MESSAGE_MAX - 1) + 1;
	if (bpf_ringbuf_output(&name_answers, &dns->report, sizeof(dns->report) + length, BPF_RB_FORCE_WAKEUP) != 0)
		dns_count(NAME_LOST);
}

/* When an address with this TTL is no longer open, in jiffies. */
static __always_inline __u64 names_expiry(__u32 ttl)
{
	__u64 ticks = (__u64)(ttl >> 31 ? 0 : ttl) * settings.ticks; /* RFC 2181, 8 */

	if (ticks < settings.name_floor)
		ticks = settings.name_floor;
	if (ticks > settings.name_ceiling)
		ticks = settings.name_ceiling;
	return clock_jiffies() + ticks + settings.name_slack;
}

#endif
