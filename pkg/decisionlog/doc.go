// Package decisionlog turns the data path's events into access log records and
// brings them to sinks, with every record that is lost on the way counted.
//
// # The record
//
// Record follows Azure's network security perimeter access logs, so that
// queries and dashboards written for them work. Where NSP leaves a choice, or
// where a host is not a cloud service, this was chosen:
//
//   - resourceId is /PERIMETERS/NAME in upper case, as NSP prints it, and
//     serviceResourceId is /subscriptions/SUBSCRIPTION/resources/NAME, or
//     /resources/NAME for a resource without subscription. Compare ids without
//     regard to case. A resource in no perimeter has no resourceId, profile and
//     accessRulesVersion.
//   - time is the first decision a record stands for. count and
//     timeGeneratedEndTime are there only when it stands for several; no count
//     means one. count is a number.
//   - operationName says what happened: FlowStart, FlowEnd, FlowCut (a changed
//     policy ended it), Deny, or WouldDeny (a packet that Audit let pass although
//     it could not be judged). A flow's end is no decision, so FlowEnd has count
//     0: the counts of a file, added up by category, are the decisions made.
//   - The category is that of the decision, so in Audit a record may say
//     ...RulesDenied of a flow that passed; perimeterd.verdict is what happened.
//   - The peer is source of inbound and destination of outbound traffic, whoever
//     sent the packet at hand. port is text, as in NSP, and absent where there is
//     none or it is zero. protocol is APPLICATION:TRANSPORT; a packet filter does
//     not know the application and says Unknown:TCP. destination has ipAddress,
//     which NSP's lacks.
//   - A flood of denials comes from more peers than are told apart. Those that
//     found no room are in one record for each member, protocol and reason, with
//     perimeterd.peersNotToldApart: its count is of packets, from an unknown number
//     of peers. It names no peer's address, and a port, an interface or an address
//     of the member only where all had the same.
//   - properties.perimeterd is what NSP lacks. local is the member's own end.
//     member and outcome are the numbers of a generation whose legend is not
//     known any more, in place of the names they stand for.
//   - Times are RFC 3339 in UTC with microseconds, so that text sorts by time.
//
// AppendFlat writes the same record with the column names of the NSPAccessLogs
// table and no others: what the table has no column for is JSON text in
// Parameters and DestinationParameters, and Count is always there.
//
// # The path of an event
//
// Log.Submit copies events into a bounded queue and never waits. One goroutine
// encodes them, once for each format in use, into a bounded backlog for each
// sink; one goroutine for each sink writes its backlog, everything that waits in
// one write, and tries again after an error. Allowed flows and denials queue
// apart at each step, so that a flood of denials displaces denials only.
// Counters has the books; at every moment and for every sink and category
//
//	received = lost in queue + queued + lost in backlog + pending + exported + lost in write
package decisionlog
