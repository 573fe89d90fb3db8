package main

import "github.com/perimeterd/perimeterd/tests/traffic"

// sessions are connections that live through the whole demo, or until the
// policy cuts them.
type sessions struct {
	vault, database, stranger *traffic.Conversation
}

func nothingGoverned(d *demo) {
	d.step("Nothing is governed", `No perimeterd runs yet. Everybody reaches everything, and a database has whatever
		session somebody once opened: the vault's, which is meant to be there, and the stranger's.`)
	d.try(
		attempt{from: d.partner, to: d.postgres, want: passes},
		attempt{from: d.stranger, to: d.postgres, want: passes},
		attempt{from: d.stranger, to: d.queue, want: passes},
		attempt{from: d.stranger, to: d.secrets, want: passes},
		attempt{from: d.database, to: d.dropSite, want: passes},
	)
	d.live.vault = d.converse(d.vault, d.postgres, 1)
	d.live.database = d.converse(d.database, d.queue, 0)
	d.live.stranger = d.converse(d.stranger, d.postgres, 0)
	d.stillInside()
	d.goesOn(d.live.stranger, "the stranger's session in the database (TCP, IPv4)")
}

// stillInside checks the sessions of the perimeter's own members.
func (d *demo) stillInside() {
	d.goesOn(d.live.vault, "the vault's session in the database (TCP, IPv6)")
	d.goesOn(d.live.database, "the database's session at the broker (UDP, IPv4)")
}
