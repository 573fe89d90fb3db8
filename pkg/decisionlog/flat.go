package decisionlog

// AppendFlat appends the record with the column names of the NSPAccessLogs
// table, without a line end. It does not allocate beyond the growth of dst.
func (r *Record) AppendFlat(dst []byte) []byte {
	p := &r.Properties
	x := &p.Perimeterd
	c := classify(r.Category, x.Reason)

	dst = append(dst, `{"TimeGenerated":"`...)
	dst = appendTime(dst, r.Time)
	dst = append(dst, `",`...)
	dst = appendInstant(dst, `"TimeGeneratedEndTime":`, r.EndTime)
	dst = appendNumber(dst, `"Count":`, uint64(r.Count))
	dst = appendText(dst, `"_ResourceId":`, r.ResourceID)
	dst = appendText(dst, `"Location":`, r.Location)
	dst = appendAlways(dst, `"OperationName":`, string(r.Operation))
	dst = appendText(dst, `"Category":`, string(r.Category))
	dst = appendAlways(dst, `"ResultDirection":`, x.Direction)
	dst = appendText(dst, `"ResultAction":`, c.action)
	dst = appendText(dst, `"TrafficType":`, c.traffic)
	dst = appendText(dst, `"RuleType":`, c.rules)
	dst = appendText(dst, `"ServiceResourceId":`, p.ServiceResourceID)
	dst = appendText(dst, `"Profile":`, p.Profile)
	dst = appendText(dst, `"AccessRuleVersion":`, p.AccessRulesVersion)

	// Columns that hold JSON as text: written plain, then as a string.
	var scratch [1024]byte
	if p.MatchedRule != (MatchedRule{}) {
		dst = append(dst, `"MatchedRule":`...)
		dst = appendString(dst, p.MatchedRule.appendJSON(scratch[:0]))
		dst = append(dst, ',')
	}
	dst = appendAddress(dst, `"SourceIpAddress":`, p.Source.IPAddress)
	dst = appendPort(dst, `"SourcePort":`, p.Source.Port)
	dst = appendText(dst, `"SourceProtocol":`, p.Source.Protocol)
	dst = appendText(dst, `"DestinationFqdn":`, p.Destination.FullyQualifiedDomainName)
	dst = appendPort(dst, `"DestinationPort":`, p.Destination.Port)
	dst = appendText(dst, `"DestinationProtocol":`, p.Destination.Protocol)
	if p.Destination.IPAddress.IsValid() {
		dst = append(dst, `"DestinationParameters":`...)
		text := append(scratch[:0], '{')
		text = appendAddress(text, `"ipAddress":`, p.Destination.IPAddress)
		dst = appendString(dst, closeObject(text))
		dst = append(dst, ',')
	}
	dst = append(dst, `"Parameters":`...)
	dst = appendString(dst, x.appendJSON(scratch[:0]))
	return append(dst, `,"SourceSystem":"perimeterd","Type":"NSPAccessLogs"}`...)
}
