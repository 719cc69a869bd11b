import java.sql.*;
import java.util.*;

/** Asks a server for its metadata as programs over JDBC do, and prints what came: `Metadata URL USER PASSWORD TABLE`. */
public class Metadata {
    static String rows(ResultSet rows, String... columns) throws SQLException {
        List<String> all = new ArrayList<>();
        while (rows.next()) {
            List<String> one = new ArrayList<>();
            for (String column : columns) one.add(String.valueOf(rows.getString(column)));
            all.add(String.join(" ", one));
        }
        rows.close();
        return String.join(", ", all);
    }

    public static void main(String[] arguments) throws Exception {
        String table = arguments[3];
        try (Connection connection = DriverManager.getConnection(arguments[0], arguments[1], arguments[2])) {
            DatabaseMetaData of = connection.getMetaData();
            System.out.println("product: " + of.getDatabaseProductName() + " " + of.getDatabaseMajorVersion());
            String[] kinds = {"TABLE", "VIEW"};
            System.out.println("tables: " + rows(of.getTables(null, "public", "%", kinds), "TABLE_NAME", "TABLE_TYPE"));
            System.out.println("columns: " + rows(of.getColumns(null, "public", table, "%"), "COLUMN_NAME", "TYPE_NAME"));
            System.out.println("schemas: " + rows(of.getSchemas(), "TABLE_SCHEM"));
            System.out.println("primary keys: " + rows(of.getPrimaryKeys(null, "public", table), "COLUMN_NAME"));
            System.out.println("imported keys: " + rows(of.getImportedKeys(null, "public", table), "FK_NAME"));
            System.out.println("exported keys: " + rows(of.getExportedKeys(null, "public", table), "FK_NAME"));
            System.out.println("indexes: " + rows(of.getIndexInfo(null, "public", table, false, true), "INDEX_NAME"));
            System.out.println("types: " + rows(of.getTypeInfo(), "TYPE_NAME"));
            System.out.println("functions: " + rows(of.getFunctions(null, "public", "diff"), "FUNCTION_NAME"));
            System.out.println("procedures: " + rows(of.getProcedures(null, "public", "diff"), "PROCEDURE_NAME"));
            System.out.println("privileges: " + rows(of.getTablePrivileges(null, "public", table), "PRIVILEGE"));
            String sql = "SELECT doc_id, n_tokens, features FROM " + table + " WHERE doc_id = ?";
            try (PreparedStatement statement = connection.prepareStatement(sql)) {
                // Past the fifth time the driver prepares on the server and reads binary values.
                for (int time = 0; time < 7; time++) {
                    statement.setString(1, arguments[4]);
                    ResultSet rows = statement.executeQuery();
                    ResultSetMetaData meta = rows.getMetaData();
                    while (rows.next() && time == 6) {
                        System.out.println("row: " + rows.getString(1) + " " + rows.getLong(2)
                            + " " + meta.getColumnTypeName(1) + " " + meta.getColumnTypeName(2));
                    }
                }
            }
        }
    }
}
