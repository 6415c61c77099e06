import Resources

/// A Table as text, as `kubectl` aligns it: headings in capitals, columns three spaces apart, nothing after the last cell.
struct TableText {
    var showsHeadings = true
    var isWide = false
    var showsNamespace = false
    var showsLabels = false
    /// Labels with a column each.
    var labelColumns: [String] = []
    /// `secret/NAME` instead of `NAME`, when several kinds are shown.
    var kindPrefix: String?
    /// Widths of a watch's earlier rows, so that later ones stay in line.
    private var widths: [Int] = []
    private var isFirst = true

    init(
        showsHeadings: Bool = true, isWide: Bool = false, showsNamespace: Bool = false, showsLabels: Bool = false, labelColumns: [String] = [],
        kindPrefix: String? = nil
    ) {
        self.showsHeadings = showsHeadings; self.isWide = isWide; self.showsNamespace = showsNamespace; self.showsLabels = showsLabels
        self.labelColumns = labelColumns; self.kindPrefix = kindPrefix
    }

    /// `event` stands in a column of its own, before all others.
    mutating func render(_ table: JSONValue, event: String? = nil) -> String {
        let columns = table["columnDefinitions"]?.arrayValue ?? []
        let shown = columns.indices.filter { isWide || columns[$0]["priority"]?.integerValue ?? 0 == 0 }
        var lines: [[String]] = []
        if showsHeadings, isFirst {
            var line = shown.map { (columns[$0]["name"]?.stringValue ?? "").uppercased() }
            if showsNamespace { line.insert("NAMESPACE", at: 0) }
            // As kubectl has it, the last part of the label's name.
            line += labelColumns.map { TableText.printable(($0.split(separator: "/").last.map(String.init) ?? $0).uppercased()) }
            if showsLabels { line.append("LABELS") }
            if event != nil { line.insert("EVENT", at: 0) }
            lines.append(line)
        }
        isFirst = false
        for row in table["rows"]?.arrayValue ?? [] {
            let cells = row["cells"]?.arrayValue ?? [], metadata = row.at("object", "metadata")
            var line = shown.map { cells.indices.contains($0) ? Self.text(cells[$0]) : "" }
            if let kindPrefix, !line.isEmpty { line[0] = "\(kindPrefix)/\(line[0])" }
            if showsNamespace { line.insert(metadata?["namespace"]?.stringValue ?? "", at: 0) }
            line += labelColumns.map { Self.printable(metadata?.at("labels", $0)?.stringValue ?? "") }
            if showsLabels { line.append(Self.labels(metadata)) }
            if let event { line.insert(event, at: 0) }
            lines.append(line)
        }
        return Self.aligned(lines, &widths)
    }

    static func labels(_ metadata: JSONValue?) -> String {
        let labels = (metadata?["labels"]?.objectValue?.sortedMembers ?? []).map { "\($0.key)=\($0.value.stringValue ?? "")" }
        return labels.isEmpty ? "<none>" : labels.joined(separator: ",")
    }
    /// A cell in one line, without what could steer a terminal.
    static func text(_ cell: JSONValue) -> String { printable(JSONPath.text(of: cell, .masked)) }
    static func printable(_ text: String) -> String {
        text.unicodeScalars.reduce(into: "") { result, scalar in
            result.unicodeScalars.append(scalar.value < 0x20 || (0x7f...0x9f).contains(scalar.value) ? "\u{fffd}" : scalar)
        }
    }

    static func aligned(_ lines: [[String]], _ widths: inout [Int]) -> String {
        for line in lines {
            for (index, cell) in line.enumerated() {
                if index == widths.count { widths.append(0) }
                widths[index] = max(widths[index], cell.count)
            }
        }
        return lines.map { line in
            line.enumerated().map { index, cell in
                index == line.count - 1 ? cell : cell + String(repeating: " ", count: max(widths[index], 3) + 3 - cell.count)
            }.joined() + "\n"
        }.joined()
    }
    static func aligned(_ lines: [[String]]) -> String {
        var widths: [Int] = []
        return aligned(lines, &widths)
    }
}
